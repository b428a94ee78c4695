"""The README.md of a repository: what whoever runs the server has to know."""

from __future__ import annotations

from densepack_export.triton.engine_model import EngineModel
from densepack_runtime.bundle import Bundle
from densepack_runtime.host.versions import package_versions

_TEXT = """\
# {model}: a Triton model repository, written by densepack {densepack}

`{name}` takes `question` and `context` (BYTES, [batch, 1]) and gives `answer` (BYTES), `start` and `end`
(INT32, characters of the context) and `score` (FP64). `{name}_engine` is the model behind it: padded token
ids in, logits out.

```sh
pip install densepack=={densepack}    # into the Python of Triton's Python backend; {name}/1/model.py imports it
tritonserver --model-repository=/path/to/this --disable-auto-complete-config --exit-on-error=true{flags}
```

In a container, give the Python backend shared memory for the texts and logits (`docker run --shm-size=1g …`).
`{name}/1/settings.json` has the rules of answering and the size of batches, `*/config.pbtxt` queues and instances.

## What runs the model

{engine}
"""
_GRAPH = "`{file}` on Triton's ONNX Runtime backend. It was checked with ONNX Runtime {onnxruntime}.\n"
_PLANS = """\
| plan | built with TensorRT | for compute capability | profiles (min / opt / max) |
|---|---|---|---|
{rows}

A plan runs on the GPU model that it was built for, with the TensorRT that it was built with{later}. Ask the server's
image for its version, and compare:

```sh
docker run --rm IMAGE dpkg-query -W 'libnvinfer*'
```

Where they differ, take the image with the right TensorRT, or build the plan inside of the image that will serve:
install densepack and the bindings of that very version there, then

```sh
pip install 'densepack[engine]=={densepack}' 'tensorrt-cu13==VERSION' cuda-python    # tensorrt-cu12 before CUDA 13
densepack build-engine {bundle} --flavour tensorrt
densepack triton {bundle} REPOSITORY --overwrite
```
"""
_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"


def readme(bundle: Bundle, engine: EngineModel, name: str) -> str:
    """The text for one repository."""
    compatible = {entry.version_compatible for entry in engine.plans}
    densepack = package_versions()["densepack"]
    rows = "\n".join(
        f"| {entry.plan} | {entry.tensorrt_version} | {', '.join(entry.compute_capabilities)}"
        f"{f' ({entry.gpu})' if entry.gpu else ''} | {'; '.join(map(str, entry.profiles))} |"
        for entry in engine.plans
    )
    later = f" or a later one (version-compatible: the server needs `{_COMPATIBLE}`)" if compatible == {True} else ""
    onnxruntime = bundle.manifest.versions.get("onnxruntime", "1.22 or later")
    told = _PLANS if engine.plans else _GRAPH
    [file, *_] = engine.files.values()
    return _TEXT.format(
        model=bundle.manifest.model.name,
        densepack=densepack,
        name=name,
        flags=f" {_COMPATIBLE}" if True in compatible else "",
        engine=told.format(
            file=file, onnxruntime=onnxruntime, rows=rows, later=later, densepack=densepack, bundle=bundle.folder
        ).rstrip(),
    )
