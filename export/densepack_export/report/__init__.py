"""One page about one bundle or several: what is left of a model, whether it still answers, how fast it is.

    write_report(gather([Path("bundle/")], benchmarks=[Path("bench.json")]), Path("report.html"))

`facts` reads, `page` and its neighbours make tables and pictures of it, `templates/` lays it out, `writing` puts it
where it belongs.
"""
