//! cuBLAS as a yardstick of the plain matrix product, where its library is to be had (feature `cublas`). Nothing else
//! in Medley uses it.

use anyhow::{Context, Result, ensure};
use cudarc::cublas::{result, sys};
use medley_tensor::device::{CudaDevice, DeviceBuffer};
use std::ffi::c_void;

/// A bf16 product `y [m, n] = x [m, k] · W [n, k]ᵀ` on memory of its own.
pub struct Product {
    handle: sys::cublasHandle_t,
    x: DeviceBuffer,
    w: DeviceBuffer,
    y: DeviceBuffer,
    shape: [i32; 3],
}

/// Whether the library is found.
pub fn present() -> bool {
    // SAFETY: opens the library and closes it again; cuBLAS has no initialisers that depend on the caller.
    unsafe { sys::is_culib_present() }
}

impl Product {
    /// Zeros of the right sizes (the time of a product does not depend on its numbers).
    ///
    /// # Errors
    /// When the library is missing, memory runs out or cuBLAS refuses.
    pub fn new(device: &CudaDevice, [m, n, k]: [usize; 3]) -> Result<Product> {
        ensure!(
            present(),
            "libcublas.so.12 is not found (Python package nvidia-cublas-cu12, or the CUDA toolkit)"
        );
        let zeros = |elements: usize| -> Result<DeviceBuffer> {
            let buffer = device.alloc(2 * elements)?;
            device.memset(&buffer, 0)?;
            Ok(buffer)
        };
        let (x, w, y) = (zeros(m * k)?, zeros(n * k)?, zeros(m * n)?);
        // The driver made the card's primary context current in this thread by the calls above.
        let handle = result::create_handle().context("cublasCreate")?;
        let shape = [i32::try_from(m)?, i32::try_from(n)?, i32::try_from(k)?];
        Ok(Product { handle, x, w, y, shape })
    }

    /// Starts one product in CUDA's default stream; [`CudaDevice::driver`]'s `synchronize(None)` waits for it.
    ///
    /// # Errors
    /// What cuBLAS reports.
    pub fn start(&self) -> Result<()> {
        let [m, n, k] = self.shape;
        let (one, zero) = (1.0f32, 0.0f32);
        let bf16 = sys::cudaDataType::CUDA_R_16BF;
        // SAFETY: the handle lives as long as `self`; the buffers hold m·k, n·k and m·n bf16 elements, which is what
        // the column-major product yᵀ [n, m] = W · xᵀ with leading dimensions k, k and n reads and writes; the two
        // factors are read before the call returns (host pointer mode is the default).
        let done = unsafe {
            result::gemm_ex(
                self.handle,
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                n,
                m,
                k,
                (&raw const one).cast::<c_void>(),
                self.w.ptr() as *const c_void,
                bf16,
                k,
                self.x.ptr() as *const c_void,
                bf16,
                k,
                (&raw const zero).cast::<c_void>(),
                self.y.ptr() as *mut c_void,
                bf16,
                n,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.context("cublasGemmEx")
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed here alone.
        if let Err(error) = unsafe { result::destroy_handle(self.handle) } {
            eprintln!("warning: cublasDestroy: {error:?}");
        }
    }
}
