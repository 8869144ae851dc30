"""The CUDA driver API through ctypes: what the launcher calls, with errors that say what to do.

Nothing but the driver's own library is needed. ``GRAPHOPT_LIBCUDA`` names another library that
speaks the same API (tests play a device by it).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, Final

from graphopt.errors import ExecutionError, ToolchainError

__all__ = ["Driver", "DriverError"]

_OUT_OF_MEMORY: Final = 2
_MAJOR, _MINOR, _PROCESSORS, _SHARED_OPT_IN = 75, 76, 16, 97
_MOST_DYNAMIC_SHARED: Final = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_PLAIN_SHARED: Final = 48 * 1024
_NON_BLOCKING: Final = 1
_THREAD_LOCAL_CAPTURE: Final = 1


class DriverError(ExecutionError):
    """A call of the driver failed; ``code`` is its CUresult."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Driver:
    """One device. Raises ToolchainError where there is no driver or no such device."""

    def __init__(self, device: int = 0, library: str | None = None) -> None:
        name = library or os.environ.get("GRAPHOPT_LIBCUDA") or "libcuda.so.1"
        try:
            self._lib = ctypes.CDLL(name)
        except OSError as error:
            raise ToolchainError(
                f"there is no NVIDIA driver here ({error}); this artifact runs on machines with one"
            ) from None
        code = self._lib.cuInit(0)
        if code:
            raise ToolchainError(
                f"the NVIDIA driver does not start: {self.error_name(code)} (is there a GPU?)"
            )
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        if device >= count.value:
            raise ToolchainError(f"there is no CUDA device {device}: the driver sees {count.value}")
        handle = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(handle), device)
        self._device = handle
        self._context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)
        self.activate()

    def call(self, function: str, *args: Any) -> None:
        """Calls a function of the driver. Raises DriverError when it fails."""
        code = getattr(self._lib, function)(*args)
        if code:
            raise DriverError(f"{function} failed: {self.error_name(code)}", code)

    def error_name(self, code: int) -> str:
        """The driver's name of a CUresult."""
        text = ctypes.c_char_p()
        if self._lib.cuGetErrorName(code, ctypes.byref(text)) or text.value is None:
            return f"CUresult {code}"
        return text.value.decode()

    def activate(self) -> None:
        """Makes this device's context the calling thread's."""
        self.call("cuCtxSetCurrent", self._context)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    @property
    def sm(self) -> int:
        """The device's generation: 90 for sm_90."""
        return 10 * self._attribute(_MAJOR) + self._attribute(_MINOR)

    @property
    def version(self) -> int:
        """The newest CUDA that the driver speaks: 12040 for 12.4."""
        value = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(value))
        return value.value

    @property
    def name(self) -> str:
        """The device's name."""
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode(errors="replace")

    # ---- memory ----

    def allocate(self, nbytes: int, what: str) -> int:
        """Device memory. Raises DriverError that says what it was for when there is too little."""
        pointer = ctypes.c_uint64()
        try:
            self.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(nbytes, 1)))
        except DriverError as error:
            if error.code != _OUT_OF_MEMORY:
                raise
            raise DriverError(
                f"{self.name} has no {nbytes / 2**20:.1f} MiB left for {what}; free some, or "
                f"compile for a smaller batch",
                error.code,
            ) from None
        return pointer.value

    def free(self, pointer: int) -> None:
        """Gives device memory back."""
        self.call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def allocate_host(self, nbytes: int) -> int:
        """Pinned memory of the host, for copies that do not wait."""
        pointer = ctypes.c_void_p()
        self.call("cuMemAllocHost_v2", ctypes.byref(pointer), ctypes.c_size_t(max(nbytes, 1)))
        assert pointer.value is not None
        return pointer.value

    def free_host(self, pointer: int) -> None:
        """Gives pinned memory back."""
        self.call("cuMemFreeHost", ctypes.c_void_p(pointer))

    def upload(self, to: int, source: int, nbytes: int) -> None:
        """Copies from the host and waits."""
        if nbytes:
            self.call(
                "cuMemcpyHtoD_v2", ctypes.c_uint64(to), ctypes.c_void_p(source),
                ctypes.c_size_t(nbytes),
            )  # fmt: skip

    def send(self, to: int, source: int, nbytes: int, stream: ctypes.c_void_p) -> None:
        """Queues a copy from pinned memory."""
        if nbytes:
            self.call(
                "cuMemcpyHtoDAsync_v2", ctypes.c_uint64(to), ctypes.c_void_p(source),
                ctypes.c_size_t(nbytes), stream,
            )  # fmt: skip

    def fetch(self, to: int, source: int, nbytes: int, stream: ctypes.c_void_p) -> None:
        """Queues a copy into pinned memory."""
        if nbytes:
            self.call(
                "cuMemcpyDtoHAsync_v2", ctypes.c_void_p(to), ctypes.c_uint64(source),
                ctypes.c_size_t(nbytes), stream,
            )  # fmt: skip

    # ---- code ----

    def module(self, image: bytes) -> ctypes.c_void_p:
        """Loads a cubin or PTX."""
        handle = ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(handle), ctypes.c_char_p(image))
        return handle

    def function(self, module: ctypes.c_void_p, name: str, shared: int) -> ctypes.c_void_p:
        """A kernel, allowed ``shared`` bytes of shared memory."""
        handle = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(handle), module, name.encode())
        if shared > _PLAIN_SHARED:
            self.call("cuFuncSetAttribute", handle, _MOST_DYNAMIC_SHARED, shared)
        return handle

    # ---- streams and graphs ----

    def stream(self) -> ctypes.c_void_p:
        """A stream of its own."""
        handle = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        return handle

    def synchronize(self, stream: ctypes.c_void_p) -> None:
        """Waits for all work of a stream."""
        self.call("cuStreamSynchronize", stream)

    def record(self, stream: ctypes.c_void_p, work: Callable[[], None]) -> ctypes.c_void_p:
        """A graph of the work that ``work`` queues, ready to replay."""
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL_CAPTURE)
        try:
            work()
        finally:
            self.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        self.call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        self.call("cuGraphDestroy", graph)
        return ready

    def replay(self, graph: ctypes.c_void_p, stream: ctypes.c_void_p) -> None:
        """Queues a graph."""
        self.call("cuGraphLaunch", graph, stream)
