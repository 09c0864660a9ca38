"""Records of TensorBoard's event files: a message framed by its length and checksums (TFRecord).

The messages come from tensorboardX, a dependency of Ray Tune. They are imported where they are
used.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "first_record",
    "image",
    "record",
    "scalar",
    "session_end",
    "session_start",
    "text",
]

_MASK = 0xA282EAD8  # of the checksums
_HPARAMS = "hparams"  # name of the plugin
_START, _END = "_hparams_/session_start_info", "_hparams_/session_end_info"


def first_record(t: int) -> bytes:
    """Return the record with which every event file begins."""
    from tensorboardX.proto.event_pb2 import Event

    return _framed(Event(wall_time=t / 1000, file_version="brain.Event:2"))


def record(t: int, step: int, values: Iterable[Any]) -> bytes:
    """Return a record of values at one step; `t` is in ms since the epoch."""
    from tensorboardX.proto.event_pb2 import Event

    summary = _message("", value=list(values))
    return _framed(Event(wall_time=t / 1000, step=step, summary=summary))


def _framed(message: Any) -> bytes:
    """Frame a message with its length and checksums."""
    content: bytes = message.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    """Compute the masked CRC-32C (TensorFlow, `lib/hash/crc32c.h`)."""
    from tensorboardX.crc32c import crc32c

    crc = crc32c(content)
    rotated = (crc >> 15) | (crc << 17)
    return struct.pack("<I", (rotated + _MASK) & 0xFFFFFFFF)


def _message(kind: str, **fields: Any) -> Any:
    """Return a `Summary`, or the message inside it that is named `kind`."""
    from tensorboardX.proto.summary_pb2 import Summary

    make = getattr(Summary, kind) if kind else Summary
    return make(**fields)


def scalar(tag: str, value: float) -> Any:
    """Return a metric value."""
    return _message("Value", tag=tag, simple_value=value)


def image(tag: str, content: bytes, width: int, height: int) -> Any:
    """Return an already encoded image with three channels."""
    size = {"height": height, "width": width, "colorspace": 3}
    picture = _message("Image", encoded_image_string=content, **size)
    return _message("Value", tag=tag, image=picture)


def text(tag: str, content: str) -> Any:
    """Return a text for the Text tab."""
    from tensorboardX.proto.tensor_pb2 import TensorProto
    from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[content.encode()], tensor_shape=shape)
    metadata = _plugin("text", b"")
    return _message("Value", tag=f"{tag}/text_summary", tensor=tensor, metadata=metadata)


def session_start(searched: Mapping[str, Any], t: int) -> Any:
    """Return a run's parameters for the HParams tab."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionStartInfo

    info = SessionStartInfo(start_time_secs=t / 1000)
    for name, value in searched.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = str(value)
    content = HParamsPluginData(session_start_info=info)
    metadata = _plugin(_HPARAMS, content.SerializeToString(deterministic=True))
    return _message("Value", tag=_START, metadata=metadata)


def session_end(status: int, t: int) -> Any:
    """Return the end of a run for the HParams tab; `status` is 1 for success, 2 for failure."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo

    info = SessionEndInfo(status=status, end_time_secs=t / 1000)
    content = HParamsPluginData(session_end_info=info)
    metadata = _plugin(_HPARAMS, content.SerializeToString(deterministic=True))
    return _message("Value", tag=_END, metadata=metadata)


def _plugin(name: str, content: bytes) -> Any:
    """Return the metadata of a value that a plugin shows."""
    from tensorboardX.proto.summary_pb2 import SummaryMetadata

    data = SummaryMetadata.PluginData(plugin_name=name, content=content)
    return SummaryMetadata(plugin_data=data)
