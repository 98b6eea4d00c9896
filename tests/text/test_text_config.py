"""The settings of the text wing."""

from __future__ import annotations

import subprocess
import sys


def test_settings_and_sets_import_without_torch():
    code = "import sys; sys.modules['torch'] = None; import polythink.text.config, polythink.text.data.sets"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
