"""Reads a work directory's curves with TensorBoard's own reader and compares them with its log.

    pip install tensorboard==2.21.0
    python tools/tensorboard/read_back.py WORK_DIR

Every number of log.jsonl has to be there, at its iteration, as the nearest f32; and nothing else. Of iterations that a resumed run did again, the
last ones count, in the log and in the curves. Exit code 1 if something differs.
"""

import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader


def scalars(value, tag):
    """Every number below `value`, with its tag."""
    if isinstance(value, dict):
        for name, entry in value.items():
            if name not in ("event", "iteration"):
                yield from scalars(entry, f"{tag}/{name}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield tag, value


def logged(path):
    """{(tag, iteration): number} of a log."""
    found = {}
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # what a killed process left unfinished
        if record["event"] in ("iteration", "evaluation"):
            for tag, value in scalars(record, record["event"]):
                found[tag, record["iteration"]] = value
    return found


def curves(directory):
    """The same of TensorBoard's files, the oldest first."""
    found = {}
    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                # The loader turns simple values into tensors of one element.
                number = value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
                found[value.tag, event.step] = number
    return found


def main():
    work_dir = Path(sys.argv[1])
    expected, found = logged(work_dir / "log.jsonl"), curves(work_dir / "tensorboard")
    nearest = {key: struct.unpack("f", struct.pack("f", value))[0] for key, value in expected.items()}
    wrong = sorted(key for key in nearest.keys() | found.keys() if nearest.get(key) != found.get(key))
    for tag, iteration in wrong[:10]:
        key = tag, iteration
        print(f"{tag} at {iteration}: log {nearest.get(key)}, curves {found.get(key)}")
    print(f"{len(expected)} numbers in the log, {len(found)} in the curves, {len(wrong)} differ")
    sys.exit(bool(wrong) or not expected)


if __name__ == "__main__":
    main()
