//! NVIDIA's driver through cudarc, loaded at run time: the binary starts on machines without it. The only
//! file that names cudarc.

use super::DriverError;
use super::arguments::{Header, KernelArg};
use super::driver::{
    DeviceInfo, Driver, DriverResult, Event, Function, HostPointer, LaunchConfig, Module, Stream,
};
use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};
use std::ptr::NonNull;

/// What is missing when there is no driver.
const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
/// Room for the words of the driver's PTX compiler.
const LOG_BYTES: usize = 8 << 10;

/// A CUDA card through its primary context.
pub struct CudarcDriver {
    info: DeviceInfo,
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a CUDA context may be current in any number of threads, and every method makes it current in
// its own before anything else. Handles are addresses that CUDA itself guards.
unsafe impl Send for CudarcDriver {}
// SAFETY: as above.
unsafe impl Sync for CudarcDriver {}

/// Names the call in the driver's refusal.
fn named<T>(call: &'static str, result: Result<T, result::DriverError>) -> DriverResult<T> {
    result.map_err(|error| {
        let word = |text: Result<&std::ffi::CStr, result::DriverError>| {
            text.map_or_else(|_| format!("error {:?}", error.0), |t| t.to_string_lossy().into_owned())
        };
        DriverError::Api {
            call,
            message: format!("{} ({})", word(error.error_string()), word(error.error_name())),
        }
    })
}

/// Errors that a kernel leaves behind for the next call.
fn is_kernel_failure(code: sys::CUresult) -> bool {
    matches!(
        code,
        sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | sys::CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | sys::CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | sys::CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | sys::CUresult::CUDA_ERROR_INVALID_PC
            | sys::CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | sys::CUresult::CUDA_ERROR_ASSERT
            | sys::CUresult::CUDA_ERROR_LAUNCH_FAILED
            | sys::CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
    )
}

/// As [`named`], for calls that meet the failures of kernels before them.
fn after_kernels<T>(call: &'static str, result: Result<T, result::DriverError>) -> DriverResult<T> {
    match result {
        Err(error) if is_kernel_failure(error.0) => {
            let message = match named::<()>(call, Err(error)) {
                Err(DriverError::Api { message, .. }) => message,
                _ => format!("{:?}", error.0),
            };
            // Hardware does not say which; CUDA_LAUNCH_BLOCKING=1 makes the launch itself report it.
            let entry = "(one before this call; run with CUDA_LAUNCH_BLOCKING=1 to learn which)".into();
            Err(DriverError::Fault { entry, message, call })
        }
        other => named(call, other),
    }
}

impl CudarcDriver {
    /// How many cards this machine has; 0 without a driver or when it does not start.
    pub fn count() -> usize {
        // SAFETY: loads and unloads the library; its initialisers are NVIDIA's.
        if !unsafe { sys::is_culib_present() } || result::init().is_err() {
            return 0;
        }
        result::device::get_count().map_or(0, |count| count.max(0) as usize)
    }

    /// Opens the n-th card.
    ///
    /// # Errors
    /// [`DriverError::NoDriver`], [`DriverError::NoSuchDevice`], or what CUDA says.
    pub fn new(ordinal: usize) -> DriverResult<Self> {
        // SAFETY: loads and unloads the library; its initialisers are NVIDIA's.
        if !unsafe { sys::is_culib_present() } {
            return Err(DriverError::NoDriver { library: LIBRARY });
        }
        match result::init() {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => {
                return Err(DriverError::NoSuchDevice { ordinal, count: 0 });
            }
            other => named("cuInit", other)?,
        }
        let count = named("cuDeviceGetCount", result::device::get_count())?.max(0) as usize;
        if ordinal >= count {
            return Err(DriverError::NoSuchDevice { ordinal, count });
        }
        let mut version = 0;
        // SAFETY: writes one int.
        named("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) }.result())?;
        let version = version.max(0) as u32;
        let device = named("cuDeviceGet", result::device::get(ordinal as i32))?;
        use sys::CUdevice_attribute_enum as Attribute;
        let attribute = |a: Attribute| -> DriverResult<u32> {
            // SAFETY: `device` came from cuDeviceGet.
            let value = unsafe { result::device::get_attribute(device, a) };
            Ok(named("cuDeviceGetAttribute", value)?.max(0) as u32)
        };
        let info = DeviceInfo {
            name: named("cuDeviceGetName", result::device::get_name(device))?,
            compute_capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            // SAFETY: `device` came from cuDeviceGet.
            total_memory: named("cuDeviceTotalMem", unsafe { result::device::total_mem(device) })?,
            max_shared_per_block: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            driver_version: (version / 1000, version % 1000 / 10),
            simulated: false,
        };
        // SAFETY: `device` came from cuDeviceGet; released in `drop`.
        let context = named("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        Ok(CudarcDriver { info, device, context })
    }

    fn current(&self) -> DriverResult<()> {
        // SAFETY: the context is retained as long as `self` lives.
        after_kernels("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }

    /// Lets a kernel use all the shared memory a block can have: without it static and dynamic memory together
    /// end at 48 KiB. Once, for the most: a bound set launch by launch could be lowered by another thread
    /// between setting and launching. It costs nothing, since a block takes what its launch asks for.
    fn opt_in_to_shared_memory(&self, function: sys::CUfunction) -> DriverResult<()> {
        use sys::CUfunction_attribute_enum as Attribute;
        let fixed = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: `function` is of a module that is never unloaded.
        let fixed = unsafe { result::function::get_function_attribute(function, fixed) };
        let fixed = after_kernels("cuFuncGetAttribute", fixed)?.max(0) as u32;
        let most = self.info.max_shared_per_block.saturating_sub(fixed) as i32;
        let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: as above.
        let set = unsafe { result::function::set_function_attribute(function, dynamic, most) };
        after_kernels("cuFuncSetAttribute", set)
    }
}

fn stream_of(stream: Stream) -> sys::CUstream {
    stream.0 as sys::CUstream
}

fn event_of(event: Event) -> sys::CUevent {
    event.0 as sys::CUevent
}

impl Driver for CudarcDriver {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory_info(&self) -> DriverResult<(usize, usize)> {
        self.current()?;
        after_kernels("cuMemGetInfo", result::mem_get_info())
    }

    fn alloc(&self, bytes: usize) -> DriverResult<u64> {
        self.current()?;
        // SAFETY: nobody reads the memory before a kernel or a copy has written it.
        match unsafe { result::malloc_sync(bytes) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = self.memory_info()?;
                Err(DriverError::OutOfMemory { requested: bytes, free, total })
            }
            other => after_kernels("cuMemAlloc", other),
        }
    }

    fn free(&self, address: u64) -> DriverResult<()> {
        self.current()?;
        // SAFETY: cuMemFree waits for work that uses the memory; the allocator frees a segment once.
        after_kernels("cuMemFree", unsafe { result::free_sync(address) })
    }

    fn alloc_host(&self, bytes: usize) -> DriverResult<HostPointer> {
        self.current()?;
        // SAFETY: `PinnedBuffer` writes the memory before it reads it.
        let pointer = after_kernels("cuMemHostAlloc", unsafe { result::malloc_host(bytes, 0) })?;
        let null = || DriverError::Api { call: "cuMemHostAlloc", message: "returned a null pointer".into() };
        Ok(HostPointer(NonNull::new(pointer.cast::<u8>()).ok_or_else(null)?))
    }

    fn free_host(&self, pointer: HostPointer, _bytes: usize) -> DriverResult<()> {
        self.current()?;
        // SAFETY: came from cuMemHostAlloc and is freed once.
        after_kernels("cuMemFreeHost", unsafe { result::free_host(pointer.0.as_ptr().cast::<c_void>()) })
    }

    fn copy_to_device(&self, to: u64, source: &[u8], stream: Stream) -> DriverResult<()> {
        self.current()?;
        // SAFETY: pageable memory is copied out before the call returns; pinned memory belongs to a
        // `PinnedBuffer`, which waits for the copy before it lets go of the bytes.
        let done = unsafe { result::memcpy_htod_async(to, source, stream_of(stream)) };
        after_kernels("cuMemcpyHtoDAsync", done)
    }

    fn copy_to_host(&self, target: &mut [u8], from: u64, stream: Stream) -> DriverResult<()> {
        self.current()?;
        // SAFETY: into pageable memory the call returns when the copy is done; pinned memory as above.
        let done = unsafe { result::memcpy_dtoh_async(target, from, stream_of(stream)) };
        after_kernels("cuMemcpyDtoHAsync", done)
    }

    fn copy_on_device(&self, to: u64, from: u64, bytes: usize, stream: Stream) -> DriverResult<()> {
        self.current()?;
        // SAFETY: device addresses; a wrong one is a CUDA error, not host memory.
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes, stream_of(stream)) };
        after_kernels("cuMemcpyDtoDAsync", done)
    }

    fn memset(&self, address: u64, value: u8, bytes: usize, stream: Stream) -> DriverResult<()> {
        self.current()?;
        // SAFETY: as above.
        let done = unsafe { result::memset_d8_async(address, value, bytes, stream_of(stream)) };
        after_kernels("cuMemsetD8Async", done)
    }

    fn load_module(&self, name: &str, ptx: &str) -> DriverResult<Module> {
        Header::of(name, ptx)?.check(name, &self.info)?;
        self.current()?;
        let wrong = |message: String| DriverError::Ptx { module: name.to_string(), message };
        let text = CString::new(ptx).map_err(|_| wrong("the text holds a zero byte".into()))?;
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [
            sys::CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // Integers travel in the pointers' bits: cuModuleLoadDataEx's own convention.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG_BYTES as *mut c_void];
        let mut module: sys::CUmodule = std::ptr::null_mut();
        // SAFETY: zero-terminated text, two options with two values, a log of the size given; all outlive
        // the call.
        let code = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast::<c_void>(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        match after_kernels("cuModuleLoadDataEx", code.result()) {
            Err(DriverError::Api { message, .. }) => {
                let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(&log[..end]);
                Err(wrong(format!("{message}\n{}", log.trim())))
            }
            other => other.map(|()| Module(module as u64)),
        }
    }

    fn function(&self, module: Module, entry: &str) -> DriverResult<Function> {
        self.current()?;
        let missing = || DriverError::NoEntry { module: "PTX".into(), entry: entry.to_string() };
        let name = CString::new(entry).map_err(|_| missing())?;
        // SAFETY: `module` came from cuModuleLoadDataEx and is never unloaded.
        match unsafe { result::module::get_function(module.0 as sys::CUmodule, name) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_FOUND => Err(missing()),
            other => {
                let handle = after_kernels("cuModuleGetFunction", other)?;
                self.opt_in_to_shared_memory(handle)?;
                Ok(Function(handle as u64))
            }
        }
    }

    fn launch(
        &self,
        function: Function,
        config: LaunchConfig,
        arguments: &[KernelArg],
        stream: Stream,
    ) -> DriverResult<()> {
        self.current()?;
        let handle = function.0 as sys::CUfunction;
        let LaunchConfig { grid, block, shared_bytes } = config;
        let mut bits: Vec<u64> = arguments.iter().map(KernelArg::bits).collect();
        let mut parameters: Vec<*mut c_void> =
            bits.iter_mut().map(|b| std::ptr::from_mut(b).cast::<c_void>()).collect();
        // SAFETY: `CudaDevice::launch` has compared number and sizes of the arguments with the kernel's
        // parameters; CUDA copies them before it returns. Little-endian: the low bytes come first.
        let launched = unsafe {
            result::launch_kernel(
                handle,
                (grid[0], grid[1], grid[2]),
                (block[0], block[1], block[2]),
                shared_bytes,
                stream_of(stream),
                &mut parameters,
            )
        };
        after_kernels("cuLaunchKernel", launched)
    }

    fn create_stream(&self) -> DriverResult<Stream> {
        self.current()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        after_kernels("cuStreamCreate", stream).map(|s| Stream(s as u64))
    }

    fn destroy_stream(&self, stream: Stream) -> DriverResult<()> {
        self.current()?;
        // SAFETY: came from cuStreamCreate and is destroyed once.
        after_kernels("cuStreamDestroy", unsafe { result::stream::destroy(stream_of(stream)) })
    }

    fn create_event(&self, timed: bool) -> DriverResult<Event> {
        self.current()?;
        use sys::CUevent_flags_enum::{CU_EVENT_DEFAULT, CU_EVENT_DISABLE_TIMING};
        let event = result::event::create(if timed { CU_EVENT_DEFAULT } else { CU_EVENT_DISABLE_TIMING });
        after_kernels("cuEventCreate", event).map(|e| Event(e as u64))
    }

    fn destroy_event(&self, event: Event) -> DriverResult<()> {
        self.current()?;
        // SAFETY: came from cuEventCreate and is destroyed once.
        after_kernels("cuEventDestroy", unsafe { result::event::destroy(event_of(event)) })
    }

    fn record(&self, event: Event, stream: Stream) -> DriverResult<()> {
        self.current()?;
        // SAFETY: live handles of this context.
        after_kernels("cuEventRecord", unsafe { result::event::record(event_of(event), stream_of(stream)) })
    }

    fn stream_wait(&self, stream: Stream, event: Event) -> DriverResult<()> {
        self.current()?;
        let flags = sys::CUevent_wait_flags_enum::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: live handles of this context.
        let done = unsafe { result::stream::wait_event(stream_of(stream), event_of(event), flags) };
        after_kernels("cuStreamWaitEvent", done)
    }

    fn event_synchronize(&self, event: Event) -> DriverResult<()> {
        self.current()?;
        // SAFETY: a live event of this context.
        after_kernels("cuEventSynchronize", unsafe { result::event::synchronize(event_of(event)) })
    }

    fn elapsed(&self, start: Event, end: Event) -> DriverResult<f32> {
        self.current()?;
        // SAFETY: live events of this context.
        after_kernels("cuEventElapsedTime", unsafe { result::event::elapsed(event_of(start), event_of(end)) })
    }

    fn synchronize(&self, stream: Option<Stream>) -> DriverResult<()> {
        self.current()?;
        match stream {
            Some(stream) => {
                // SAFETY: a live stream of this context.
                let done = unsafe { result::stream::synchronize(stream_of(stream)) };
                after_kernels("cuStreamSynchronize", done)
            }
            None => after_kernels("cuCtxSynchronize", result::ctx::synchronize()),
        }
    }
}

impl Drop for CudarcDriver {
    fn drop(&mut self) {
        // SAFETY: retained once in `new`. A refusal can only mean that CUDA is shutting down already.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
