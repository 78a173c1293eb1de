"""setuptools' build backend; a source distribution also holds what manifest.in beside it says."""

from pathlib import Path

from setuptools.build_meta import *  # noqa: F403
from setuptools.command.egg_info import manifest_maker

manifest_maker.template = str(Path(__file__).with_name("manifest.in"))
