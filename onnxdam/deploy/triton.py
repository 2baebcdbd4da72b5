"""A model repository for NVIDIA Triton's ONNX Runtime backend: NAME/VERSION/model.onnx and NAME/config.pbtxt.

The configuration says everything that Triton would otherwise fill in by itself (types, dims, max_batch_size,
instances), because what it fills in depends on its version and command line. It is built as NVIDIA's own protobuf
message, printed as text and parsed back. What goes into it was run: the model is opened and fed the warm-up inputs
where it lies.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx_ir as ir

from onnxdam import features
from onnxdam import inputs as feeds
from onnxdam.deploy import batching, repository
from onnxdam.deploy.accept import accept_original
from onnxdam.deploy.ports import Port, Signature
from onnxdam.deploy.trial import Trial
from onnxdam.deploy.warmup import Sample, samples
from onnxdam.errors import InputError, UnsupportedError
from onnxdam.graph import io
from onnxdam.providers import Runnable, session
from onnxdam.verify import float_kinds

MODEL, CONFIG, WARMUP = "model.onnx", "config.pbtxt", "warmup"
MAX_BATCH = 8  # where requests may share a run and nobody said how many
KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}
PRECISIONS = ("fp32", "fp16", "bf16")
ACCEPT = ("slim", "full")
LARGEST = 2**31 - 1  # of the 32-bit numbers in a configuration

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What `deploy` can be asked for; its keyword arguments.

    Attributes:
        name: of the model on the server; None: as the file is called.
        version: of the model, from 1 on.
        max_batch_size: rows that may share a run; 0: none. None: MAX_BATCH where rows are independent, else 0.
        dynamic_batching: let requests wait for each other; None: where more than one row may share a run.
        delay: how long they wait at most, in microseconds; 0: a run takes what has queued up anyway.
        instances: copies of the model that run side by side.
        kind: "cpu", "gpu" or "auto" (a GPU where the server has one).
        warmup: run the model before the first request arrives.
        sizes: of dynamic dimensions, for warm-up and check; others are found by trying.
        tensorrt: None, or the precision in which TensorRT computes: "fp32", "fp16" or "bf16". The last two are lossy.
        accept: "slim": the inputs of the model; "full": those of the model that it was pruned from.
        verify: run what was written. False: `max_batch_size` is believed where the signature allows it.
        force: replace the configuration and this version of a model that is there.
    """

    name: str | None = None
    version: int = 1
    max_batch_size: int | None = None
    dynamic_batching: bool | None = None
    delay: int = 0
    instances: int = 1
    kind: str = "auto"
    warmup: bool = True
    sizes: Mapping[str, int] = field(default_factory=dict)
    tensorrt: str | None = None
    accept: str = "slim"
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        for name, least in (("version", 1), ("instances", 1), ("delay", 0), ("max_batch_size", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or not least <= value <= LARGEST):
                raise InputError(f"{name}: {value!r} is not a whole number from {least} on")
        for name, allowed in (("kind", tuple(KINDS)), ("tensorrt", (None, *PRECISIONS)), ("accept", ACCEPT)):
            if getattr(self, name) not in allowed:
                listed = ", ".join(str(a) for a in allowed if a is not None)
                raise InputError(f"{name}: {getattr(self, name)!r} is not one of {listed}")
        if self.tensorrt and self.kind == "cpu":
            raise InputError("tensorrt: needs a GPU, but the kind is cpu")
        if self.delay and self.dynamic_batching is False:
            raise InputError("delay: is how long requests wait for each other; it needs dynamic batching")
        wrong = [name for name, size in self.sizes.items() if size < 1]
        if wrong:
            raise InputError(f"sizes: {wrong[0]!r} is {self.sizes[wrong[0]]}, sizes start at 1")


@dataclass(frozen=True)
class Deployment:
    """What was written.

    Attributes:
        path: the model's folder in the repository.
        name: of the model on the server.
        version: of the model.
        max_batch_size: rows that may share a run.
        dynamic_batching: whether requests wait for each other.
        files: what was written, relative to `path`.
        nbytes: of all these files.
        verified: whether the model was run where it lies.
        notes: what the reader should know.
    """

    path: Path
    name: str
    version: int
    max_batch_size: int
    dynamic_batching: bool
    files: tuple[str, ...]
    nbytes: int
    verified: bool
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"path": str(self.path)}


def read_options(options: Mapping[str, Any]) -> Options:
    """Keyword arguments as `Options`; InputError names one that does not exist."""
    try:
        return Options(**options)
    except TypeError as error:
        raise InputError(f"unknown option: {error}") from None


def deploy(model: io.AnyModel, folder: str | os.PathLike[str], options: Options, say: Say) -> Deployment:
    """Writes the model's folder; see `onnxdam.deploy.deploy`."""
    model_config()  # a missing package is said before anything else is done
    name = repository.model_name(options.name, model)
    target = repository.check(Path(folder), name, options.version, force=options.force)
    say("reading the model")
    source = io.load(model)
    manifest = _manifest(model, source)
    notes: list[str] = []
    if options.accept == "full":
        source, manifest = accept_original(source, manifest)
        model = source
    with repository.staged(target) as fresh:
        say("writing the model")
        place = fresh / str(options.version) / MODEL
        place.parent.mkdir()
        _write(model, source, place)
        if manifest is not None:
            features.manifest_path(place).write_text(manifest.to_json() + "\n", encoding="utf-8")
        say("opening it")
        runnable = Runnable.of(place, name)
        opened = _open(runnable, place, str(model) if isinstance(model, str | os.PathLike) else name)
        signature = Signature.of(opened, runnable.skeleton.graph, name)
        trial = _trial(opened, runnable, options)
        say("looking whether rows are independent")
        batch = _max_batch_size(signature, trial, runnable, options, notes)
        dynamic = _dynamic(batch, options)
        say("warming up")
        warm = samples(trial, signature, batch) if trial is not None and options.warmup else []
        for sample in warm:
            sample.write(fresh / WARMUP)
        text = _text(_message(name, signature, batch, dynamic, warm, options, notes))
        (fresh / CONFIG).write_text(text, encoding="utf-8")
        if trial is not None and not options.warmup:
            samples(trial, signature, batch)
        written = sorted(path for path in fresh.rglob("*") if path.is_file())
        files = tuple(str(path.relative_to(fresh)) for path in written)
        nbytes = sum(path.stat().st_size for path in written)
    return Deployment(
        target, name, options.version, batch, dynamic, files, nbytes, options.verify, tuple(dict.fromkeys(notes))
    )


# --------------------------------------------------------------------------------------------------------- files


def _manifest(model: io.AnyModel, source: ir.Model) -> features.Manifest | None:
    """The manifest in the model or beside it; None where there is none."""
    beside = isinstance(model, str | os.PathLike) and features.manifest_path(model).exists()
    return features.load(model) if beside else features.of_model(source)


def _write(model: io.AnyModel, source: ir.Model, place: Path) -> None:
    """A model of one file byte for byte; one with external data, which gets the name model.onnx.data."""
    if isinstance(model, str | os.PathLike) and not io.sources(source):
        shutil.copyfile(model, place)
    else:
        io.write(source, place)


def _open(runnable: Runnable, place: Path, title: str) -> Any:
    """A session; what goes wrong is told of the file that the caller knows, not of the copy."""
    try:
        return session(runnable)
    except UnsupportedError as error:
        raise UnsupportedError(str(error).replace(str(place), title)) from None


# ------------------------------------------------------------------------------------------------------ batching


def _trial(opened: Any, runnable: Runnable, options: Options) -> Trial | None:
    if not (options.verify or options.warmup):
        if options.sizes:
            raise InputError("sizes: are for the warm-up and the check, and neither is made")
        return None
    return Trial(opened, feeds.describe(runnable.skeleton), options.sizes)


def _max_batch_size(
    signature: Signature, trial: Trial | None, runnable: Runnable, options: Options, notes: list[str]
) -> int:
    """How many rows may share a run.

    Raises:
        UnsupportedError: more were asked for than may.
    """
    asked = options.max_batch_size
    if asked == 0:
        return 0
    against, otherwise = batching.obstacle(signature), ""
    if against is None and options.verify:
        assert trial is not None
        against, otherwise = (
            batching.mixing(trial, signature, float_kinds(runnable.skeleton)),
            " (--no-verify takes your word for it)",
        )
    if against is not None and asked is not None:
        raise UnsupportedError(f"max_batch_size {asked}: {against}; leave it away, or make it 0{otherwise}")
    if against is not None:
        notes.append(f"no batching: {against}")
        return 0
    if asked is None and not options.verify:
        notes.append("no batching: whether rows are independent was not checked (--no-verify); say --max-batch-size")
        return 0
    return MAX_BATCH if asked is None else asked


def _dynamic(batch: int, options: Options) -> bool:
    if batch <= 1 and (options.dynamic_batching or options.delay):
        asked = "dynamic_batching" if options.dynamic_batching else "delay"
        raise InputError(f"{asked}: needs runs of several rows, but max_batch_size is {batch}; say --max-batch-size")
    return batch > 1 if options.dynamic_batching is None else options.dynamic_batching


# -------------------------------------------------------------------------------------------------- configuration


def model_config() -> ModuleType:
    """NVIDIA's `model_config_pb2`, loaded by itself: the package around it would import gRPC.

    Raises:
        InputError: tritonclient is not installed.
    """
    name = "tritonclient.grpc.model_config_pb2"
    if name in sys.modules:
        return sys.modules[name]
    package = importlib.util.find_spec("tritonclient")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder) / "grpc" / "model_config_pb2.py"
        spec = importlib.util.spec_from_file_location("onnxdam.deploy.model_config_pb2", path)
        if path.exists() and spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise InputError("the configuration of Triton needs tritonclient: pip install 'onnxdam[triton]'")


def _message(
    name: str,
    signature: Signature,
    batch: int,
    dynamic: bool,
    warm: list[Sample],
    options: Options,
    notes: list[str],
) -> Any:
    """The configuration as NVIDIA's ModelConfig."""
    pb = model_config()
    config = pb.ModelConfig(
        name=name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        default_model_filename=MODEL,
        max_batch_size=batch,
        input=[pb.ModelInput(**_port(port, batch)) for port in signature.inputs],
        output=[pb.ModelOutput(**_port(port, batch)) for port in signature.outputs],
        instance_group=[pb.ModelInstanceGroup(count=options.instances, kind=KINDS[options.kind])],
    )
    config.version_policy.latest.num_versions = 1
    if dynamic:
        config.dynamic_batching.max_queue_delay_microseconds = options.delay
        config.dynamic_batching.SetInParent()
    for sample in warm:
        config.model_warmup.append(_warmup(pb, sample))
    if options.tensorrt:
        accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
        accelerator.parameters.update(_tensorrt(name, signature, batch, options, notes))
    return config


def _port(port: Port, batch: int) -> dict[str, Any]:
    """Dims leave out the batch axis. They must not be empty: a single number has dims [1]."""
    dims = port.sizes[1:] if batch else port.sizes
    data: dict[str, Any] = dict(name=port.name, data_type=port.type, dims=dims or [1])
    if batch and not dims:
        data["reshape"] = dict(shape=[])  # [rows] as the model has it, [rows, 1] as callers send and get it
    return data


def _warmup(pb: ModuleType, sample: Sample) -> Any:
    message = pb.ModelWarmup(name=sample.name, batch_size=sample.requests)
    for item in sample.inputs:
        entry = message.inputs[item.name]
        entry.data_type = pb.DataType.Value(item.type)
        entry.dims.extend(item.dims)
        if item.file is None:
            entry.zero_data = True
        else:
            entry.input_data_file = item.file
    return message


def _tensorrt(name: str, signature: Signature, batch: int, options: Options, notes: list[str]) -> dict[str, str]:
    """Parameters of the TensorRT accelerator, under Triton's own keys.

    Building an engine takes minutes, so engines and timings are kept in a folder; without a profile an engine is built
    again for every new batch size, so the profile spans all of them.
    """
    cache = f"/tmp/{name}-tensorrt"
    notes.append(f"TensorRT keeps its engines in {cache} of the server; mount a folder there, or every start is slow")
    if options.tensorrt != "fp32":
        notes.append(f"TensorRT computes in {options.tensorrt}: results are not those of the model")
    parameters = {
        "precision_mode": str(options.tensorrt).upper(),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
    }
    free = any(isinstance(dim, str) for port in signature.inputs for dim in port.dims[1 if batch else 0 :])
    if batch and not free:
        for key, rows in (("min", 1), ("opt", batch), ("max", batch)):
            shapes = (f"{p.name}:{'x'.join(map(str, [rows, *p.sizes[1:]]))}" for p in signature.inputs)
            parameters[f"trt_profile_{key}_shapes"] = ",".join(shapes)
    elif free:
        notes.append("TensorRT builds an engine for every new size of the dynamic dimensions; fix them where you can")
    return parameters


def _text(config: Any) -> str:
    """The configuration as text, which is parsed back and must be the same."""
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config, as_utf8=True)
    if not config.max_batch_size:
        text += "max_batch_size: 0\n"  # the default is left out, but whoever reads the file wants to know
    back = text_format.Parse(text, type(config)())
    if back != config:  # a name that the text form cannot carry
        raise UnsupportedError(f"{config.name}: the configuration does not survive being written as text")
    return text
