"""How a forked process is told from its parent where memory is not wiped for us."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from streamipc._forks import _ByProcessId


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork(2) is called by its name")
def test_the_process_id_tells_home_from_a_copy() -> None:
    at_home = _ByProcessId()
    assert at_home[0] == 1
    pid = ctypes.PyDLL(None).fork()  # of which Python, and so we, are not told
    if pid == 0:
        os._exit(at_home[0])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_who_notes_that_the_copy_is_at_home_changes_nothing() -> None:
    """Memory that was wiped is written again; the process id goes by itself."""
    at_home = _ByProcessId()
    at_home[0] = 0
    assert at_home[0] == 1
