"""Send invalid requests to a served classifier: `python ask.py MODEL`. Print a line for each that
is answered, or refused in the wrong way, and `asked` at the end."""

import json
import sys
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

DEEP = "[" * 200_000
CLOSED = DEEP + "]" * 200_000
ANSWERED = ("instances", "wide", "one pixel", "digits")
"""Requests that are valid, and so are answered."""
LEVELS = ("halves", "normalized", "minus", "too large")
"""Requests whose refusal must name the levels to send."""
PLAIN = {
    "empty": "",
    "no JSON": "{",
    "null": "null",
    "list": "[]",
    "number": "5",
    "text": '"x"',
    "nothing": "{}",
    "unknown": '{"images": [[1]]}',
    "split": '{"dataframe_split": {"columns": ["a"], "data": [[1]]}}',
    "split of nothing": '{"dataframe_split": 5}',
    "records": '{"dataframe_records": [{"a": 1}]}',
    "records of nothing": '{"dataframe_records": 5}',
    "deep": DEEP,
    "deep images": '{"inputs": ' + DEEP,
    "closed deep": '{"inputs": ' + CLOSED + "}",
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
}
IMAGES = {
    "no images": "[]",
    "null images": "null",
    "text images": '"abc"',
    "objects": '{"a": 1}',
    "true": "true",
    "flat": "[1, 2, 3]",
    "grey": "[[[1, 2], [3, 4]]]",
    "no pixels": "[[]]",
    "no rows": "[[[]]]",
    "no levels": "[[[[]]]]",
    "ragged": "[[[[1, 2, 3]], [[1]]]]",
    "four channels": "[[[[1, 2, 3, 4]]]]",
    "one pixel": "[[[[9, 2, 3]]]]",
    "strings": '[[[["a", "b", "c"]]]]',
    "digits": '[[[["9", "2", "3"]]]]',
    "nulls": "[[[[null, 1, 2]]]]",
    "NaN": "[[[[NaN, 1, 2]]]]",
    "infinite": "[[[[1e400, 1, 2]]]]",
    "huge": "[[[[1" + "0" * 5000 + ", 1, 2]]]]",
    "minus": "[[[[-1, 2, 3]]]]",
    "too large": "[[[[256, 2, 3]]]]",
}


def requests(size: list[int]) -> dict[str, str]:
    """Name -> body of each request.

    Args:
        size: (H, W, 3) of an image.
    """
    images = np.random.default_rng(0).integers(0, 256, (2, *size))
    good = json.dumps({"inputs": images.tolist()})
    wide = np.full((1, 2, 300_000, 3), 9)
    made = {name: '{"inputs": ' + text + "}" for name, text in IMAGES.items()}
    levels = {"halves": images / 255, "normalized": images / 64 - 2, "wide": wide}
    made |= {name: json.dumps({"inputs": array.tolist()}) for name, array in levels.items()}
    more = {
        "deep params": f', "params": {{"a": {CLOSED}}}}}',
        "list params": ', "params": [1]}',
        "text params": ', "params": "x"}',
        "two inputs": ', "instances": [[1]]}',
    }
    made |= {name: good[:-1] + text for name, text in more.items()}
    return PLAIN | made | {"instances": good.replace("inputs", "instances")}


def judged(name: str, body: str, content: str, model: Any, schema: Any) -> str:
    """Return what is wrong with the answer to a request, or ""."""
    try:
        status = scoring_server.invocations(body, content, model, schema).status
    except MlflowException as error:
        code = error.get_http_status_code()
        if not 400 <= code < 500:
            return f"{code}: {str(error)[:80]}"
        return "" if name not in LEVELS or "255" in str(error) else f"not a word of 255: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:80]}"
    if status == 200:
        return "" if name in ANSWERED else "it was answered"
    return "" if 400 <= status < 500 else f"status {status}"


def main() -> None:
    """Send all requests, and print what is wrong."""
    model = mlflow.pyfunc.load_model(sys.argv[1])
    schema: Any = model.metadata.get_input_schema()
    size = [side if side > 0 else 8 for side in schema.inputs[0].shape[1:]]
    for name, body in requests(size).items():
        contents = ["application/json"]
        if name in ("empty", "no JSON", "deep"):
            contents.append("text/csv")
        for content in contents:
            problem = judged(name, body, content, model, schema)
            if problem:
                print(f"{name} as {content}: {problem}", flush=True)
    print("asked")


if __name__ == "__main__":
    main()
