"""Golden bytes for train/src/tensorboard, and a reader that checks a run's event files.

    python tests/reference/tensorboard_events.py            prints the bytes that the Rust tests expect
    python tests/reference/tensorboard_events.py RUN_DIR    reads RUN_DIR/runs with TensorBoard and compares it with
                                                            RUN_DIR/trainer_state.json

Both use the `tensorboard` package alone (its protobuf classes, its record writer and its event accumulator).
"""

import io
import json
import math
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


def golden() -> None:
    version = event_pb2.Event(wall_time=1.5, file_version="brain.Event:2")
    start = event_pb2.Event(
        wall_time=1.5, step=301, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    )
    values = [
        summary_pb2.Summary.Value(tag="train/loss", simple_value=2.5),
        summary_pb2.Summary.Value(tag="train/loss/qa", simple_value=-0.125),
    ]
    scalars = event_pb2.Event(wall_time=1.5, step=300, summary=summary_pb2.Summary(value=values))
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
    text = event_pb2.Event(
        wall_time=1.5,
        step=1,
        summary=summary_pb2.Summary(
            value=[
                summary_pb2.Summary.Value(
                    tag="args/text_summary",
                    metadata=summary_pb2.SummaryMetadata(
                        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
                    ),
                    tensor=tensor_pb2.TensorProto(dtype=7, tensor_shape=shape, string_val=[b"a: *b*"]),
                )
            ]
        ),
    )
    for name, event in [("version", version), ("start", start), ("scalars", scalars), ("text", text)]:
        print(f"{name:8} {event.SerializeToString().hex()}")
    framed = io.BytesIO()
    RecordWriter(framed).write(b"medley")
    print(f"{'record':8} {framed.getvalue().hex()}")


def check(run: Path) -> None:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    events = EventAccumulator(str(run / "runs"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    expected: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if name == "step" or value is None:
                continue
            tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
            expected.setdefault(tag, []).append((entry["step"], value))
    tags = events.Tags()
    assert set(tags["scalars"]) == set(expected), set(tags["scalars"]) ^ set(expected)
    numbers = 0
    for tag, points in expected.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in points], (tag, found, points)
        for (_, value), (_, wanted) in zip(found, points):
            assert math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-30), (tag, value, wanted)
            numbers += 1
    assert "args/text_summary" in tags["tensors"], tags["tensors"]
    print(f"{len(expected)} tags, {numbers} numbers as in trainer_state.json; texts: {', '.join(tags['tensors'])}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        check(Path(sys.argv[1]))
    else:
        golden()
