"""Records of TensorBoard's event files: a message between its length and checksums (TFRecord).

The messages are tensorboardX's, which Ray Tune brings along; they are imported where they are used.
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
    """The record that every event file begins with."""
    from tensorboardX.proto.event_pb2 import Event

    return _framed(Event(wall_time=t / 1000, file_version="brain.Event:2"))


def record(t: int, step: int, values: Iterable[Any]) -> bytes:
    """A record of values at one step; `t` is in ms since the epoch."""
    from tensorboardX.proto.event_pb2 import Event

    summary = _message("", value=list(values))
    return _framed(Event(wall_time=t / 1000, step=step, summary=summary))


def _framed(message: Any) -> bytes:
    """A message between its length and checksums."""
    content: bytes = message.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    """The masked CRC-32C of some bytes (TensorFlow, `lib/hash/crc32c.h`)."""
    from tensorboardX.crc32c import crc32c

    crc = crc32c(content)
    rotated = (crc >> 15) | (crc << 17)
    return struct.pack("<I", (rotated + _MASK) & 0xFFFFFFFF)


def _message(kind: str, **fields: Any) -> Any:
    """A `Summary`, or the message inside it that `kind` names."""
    from tensorboardX.proto.summary_pb2 import Summary

    make = getattr(Summary, kind) if kind else Summary
    return make(**fields)


def scalar(tag: str, value: float) -> Any:
    """A value of a metric."""
    return _message("Value", tag=tag, simple_value=value)


def image(tag: str, content: bytes, width: int, height: int) -> Any:
    """A picture of three channels that is encoded already."""
    size = {"height": height, "width": width, "colorspace": 3}
    picture = _message("Image", encoded_image_string=content, **size)
    return _message("Value", tag=tag, image=picture)


def text(tag: str, content: str) -> Any:
    """A text of the tab Text."""
    from tensorboardX.proto.tensor_pb2 import TensorProto
    from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[content.encode()], tensor_shape=shape)
    metadata = _plugin("text", b"")
    return _message("Value", tag=f"{tag}/text_summary", tensor=tensor, metadata=metadata)


def session_start(searched: Mapping[str, Any], t: int) -> Any:
    """The parameters of a run for the tab HParams."""
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
    """The end of a run for the tab HParams; `status` is 1 for success, 2 for failure."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo

    info = SessionEndInfo(status=status, end_time_secs=t / 1000)
    content = HParamsPluginData(session_end_info=info)
    metadata = _plugin(_HPARAMS, content.SerializeToString(deterministic=True))
    return _message("Value", tag=_END, metadata=metadata)


def _plugin(name: str, content: bytes) -> Any:
    """The metadata of a value that a plugin shows."""
    from tensorboardX.proto.summary_pb2 import SummaryMetadata

    data = SummaryMetadata.PluginData(plugin_name=name, content=content)
    return SummaryMetadata(plugin_data=data)
