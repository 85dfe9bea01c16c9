"""Logs of training as verl writes them, one or two starts of a run."""

import json


def write(path, rows):
    """Write the lines of a log; a string is written as it stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def row(step, **data):
    return {"step": step, "data": data}


def starts(folder):
    """Two starts of one run: killed after step 12, resumed after the checkpoint of step 10."""

    def line(step, shift):
        shares = {f"groups/successes/{count}": float(count == step % 9) for count in range(9)}
        return row(step, **{"critic/score/mean": shift + step / 20, "reward/acc/mean": step / 30, **shares})

    write(folder / "attempts/001.jsonl", [line(step, 0.0) for step in range(1, 13)])
    write(folder / "attempts/002.jsonl", [line(step, 0.5) for step in range(11, 21)])
    return folder
