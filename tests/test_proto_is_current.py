"""The committed code in ``xmtp_history/_proto`` is what the ``.proto`` files in ``rust/wire`` generate.

After changing a schema: ``make proto``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
WIRE = ROOT / "rust" / "wire"
COMMITTED = ROOT / "python" / "xmtp_history" / "_proto"

#: What a node speaks. Of what archives, groups and messages hold, Python sees no protobuf.
SCHEMAS = ("association", "commit_log", "credential", "identity_api", "mls_api", "welcome_wrapper")


def _files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.glob("*_pb2.py*") if path.suffix in {".py", ".pyi"}}


def test_generated_code_is_current(tmp_path: Path) -> None:
    include = Path(grpc_tools.__file__).parent / "_proto"
    arguments = [f"-I{WIRE}", f"-I{include}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    assert protoc.main(["protoc", *arguments, *(f"{schema}.proto" for schema in SCHEMAS)]) == 0
    # protoc imports by the path below the schemas' root, as if every file were a top-level module.
    own = re.compile(rf"^import (?=(?:{'|'.join(SCHEMAS)})_pb2 as )", re.MULTILINE)
    fresh = {name: own.sub("from xmtp_history._proto import ", text) for name, text in _files(tmp_path).items()}
    if "OVERWRITE_GENERATED" in os.environ:
        for name, text in fresh.items():
            (COMMITTED / name).write_text(text)
    assert fresh == _files(COMMITTED), "run make proto"
