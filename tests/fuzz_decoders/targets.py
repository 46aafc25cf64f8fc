"""All targets, in the order in which they run."""

from __future__ import annotations

from tests.fuzz_decoders.file_targets import FILE_TARGETS
from tests.fuzz_decoders.kernel_targets import KERNEL_TARGETS
from tests.fuzz_decoders.object_targets import OBJECT_TARGETS
from tests.fuzz_decoders.socket_targets import SOCKET_TARGETS

TARGETS = (*KERNEL_TARGETS, *OBJECT_TARGETS, *FILE_TARGETS, *SOCKET_TARGETS)
