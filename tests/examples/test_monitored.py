"""The compose file with Prometheus and Grafana: its parts fit together, and the dashboard asks for what is counted."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from densepack_runtime.serving.batcher import Seconds
from densepack_runtime.serving.metrics import Metrics
from tests.conftest import REPOSITORY
from tests.test_deploy import COMMAND, DOCKERFILE

FOLDER = REPOSITORY / "examples" / "monitored"


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


SERVICES: dict[str, dict[str, Any]] = read("compose.yaml")["services"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


def counted() -> dict[str, set[str]]:
    """The labels of every series that a server which has done everything shows at /metrics."""
    metrics = Metrics()
    metrics.request("answer", 200, 0.1)
    metrics.answered(Seconds(*(0.1 for _ in Seconds.__dataclass_fields__)))
    metrics.reloaded("swapped")
    families = text_string_to_metric_families(metrics.page().decode())
    return {sample.name: {*sample.labels} for family in families for sample in family.samples}


def test_every_query_names_what_the_server_counts() -> None:
    series = counted()
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"densepack_\w+", query)}
    assert asked - {*series} == set()
    for query in queries:
        labels = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
        assert all(labels <= series[name] for name in re.findall(r"densepack_\w+", query)), query
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in series if not name.endswith("_created")}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in asked} == families, (
        "something is counted and not shown"
    )


def test_panels_have_places_of_their_own_and_the_source_that_is_there() -> None:
    panels = DASHBOARD["panels"]
    [source] = read("grafana.yaml")["datasources"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    for name in ("id", "title"):
        assert len({panel[name] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_addresses_are_those_of_the_services() -> None:
    [job] = read("prometheus.yaml")["scrape_configs"]
    [target] = job["static_configs"]
    assert target["targets"] == ["densepack:8000"]
    assert "EXPOSE 8000" in DOCKERFILE
    [source] = read("grafana.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert {"densepack", "prometheus"} <= {*SERVICES}


def test_prometheus_has_the_token_that_the_server_wants() -> None:
    [job] = read("prometheus.yaml")["scrape_configs"]
    assert job["authorization"]["credentials_file"] == COMMAND[-1] == "/run/secrets/tokens"
    assert SERVICES["densepack"]["secrets"] == SERVICES["prometheus"]["secrets"] == ["tokens"]


def test_files_are_there_and_nothing_listens_beyond_this_host() -> None:
    assert (FOLDER / SERVICES["densepack"]["build"]["context"] / SERVICES["densepack"]["build"]["dockerfile"]).is_file()
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service["volumes"]]
    named = {*read("compose.yaml")["volumes"]}
    for source, *_ in mounts:
        assert source.startswith("${BUNDLE") or source in named or (FOLDER / source).is_file(), source
    shown = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert ["./dashboard.json", shown, "ro"] in mounts
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", ()))
    assert all(re.search(r":v?\d+\.\d+\.\d+$", service["image"]) for service in SERVICES.values() if "image" in service)
