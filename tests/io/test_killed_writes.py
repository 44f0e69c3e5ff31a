"""A process that is killed while it writes a model leaves the old file or the new one, never a part of one."""

import inspect
import signal
import subprocess
import sys
import time

import pytest

from skhep_nn.io.persistence import replace_file

WRITER = """
import sys
from pathlib import Path
# Without the package's import of torch, which takes seconds: the module under test is loaded alone.
path, source = Path(sys.argv[1]), sys.argv[2]
scope = {}
exec(compile(source, "replace_file", "exec"), scope)
for k in range(10**6):
    scope["replace_file"](path, bytes([65 + k % 26]) * 2_000_000)
    if k == 2:
        print("writing", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_kills_while_writing(tmp_path):
    source = "import tempfile\nfrom pathlib import Path\n" + inspect.getsource(replace_file)
    path = tmp_path / "model.skops"
    replace_file(path, b"old" * 1000)
    for k in range(30):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), source], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.0007 * k)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        content = path.read_bytes()
        assert len(content) == 2_000_000
        assert len(set(content)) == 1
