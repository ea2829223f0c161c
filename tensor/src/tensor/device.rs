//! Tensors on a GPU: how they get there and back, and what kernels ask of them.

use super::Tensor;
use crate::device::{CudaDevice, CudaNf4, Device, DeviceBuffer, strided_copy};
use crate::storage::{CpuStorage, CudaStorage, Storage};
use crate::{DType, Element, Error, Layout, Result};
use std::sync::Arc;

impl Tensor {
    /// Where the elements live.
    pub fn device(&self) -> Device {
        match &*self.storage {
            Storage::Cpu(_) => Device::Cpu,
            Storage::Cuda(s) => Device::Cuda(s.device().clone()),
        }
    }

    /// The GPU the elements live on, if they do.
    pub fn cuda_device(&self) -> Option<&CudaDevice> {
        match &*self.storage {
            Storage::Cpu(_) => None,
            Storage::Cuda(s) => Some(s.device()),
        }
    }

    /// A tensor on `device` whose elements are undefined on a GPU (and zero on the CPU), for kernels that
    /// write all of them.
    ///
    /// # Errors
    /// For NF4, and when device memory runs out.
    pub fn empty_on(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor> {
        match device {
            Device::Cpu => Tensor::zeros(shape, dtype),
            Device::Cuda(_) if dtype == DType::Nf4 => Err(Error::dtype("empty_on", "a plain dtype", dtype)),
            Device::Cuda(device) => {
                let bytes = dtype.bytes_for(shape.iter().product());
                Tensor::from_device_buffer(device.alloc(bytes)?, shape, dtype)
            }
        }
    }

    /// All zeros, on `device`.
    ///
    /// # Errors
    /// For NF4, and when device memory runs out.
    pub fn zeros_on(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let tensor = Tensor::empty_on(device, shape, dtype)?;
        if let Device::Cuda(device) = device {
            device.memset(tensor.device_buffer()?, 0)?;
        }
        Ok(tensor)
    }

    /// Takes a buffer as the row-major elements of `shape`.
    ///
    /// # Errors
    /// When it has another size.
    pub fn from_device_buffer(buffer: DeviceBuffer, shape: &[usize], dtype: DType) -> Result<Tensor> {
        if dtype == DType::Nf4 || buffer.bytes() != dtype.bytes_for(shape.iter().product()) {
            let expected = format!("{} bytes of {dtype}", buffer.bytes());
            return Err(Error::shape("from_device_buffer", expected, shape));
        }
        Ok(Tensor::on_device(CudaStorage::Plain { buffer, dtype }, shape))
    }

    /// Takes a matrix in NF4 blocks that lies on a GPU.
    ///
    /// # Errors
    /// When its parts are not of the matrix's size.
    pub fn from_cuda_nf4(matrix: CudaNf4) -> Result<Tensor> {
        matrix.check()?;
        let shape = [matrix.rows, matrix.cols];
        Ok(Tensor::on_device(CudaStorage::Nf4(matrix), &shape))
    }

    fn on_device(storage: CudaStorage, shape: &[usize]) -> Tensor {
        Tensor { storage: Arc::new(Storage::Cuda(storage)), layout: Layout::contiguous(shape) }
    }

    /// This tensor when it lies on `device`, else a contiguous copy there. A copy to the host waits for
    /// all work before; one to the GPU does not.
    ///
    /// # Errors
    /// When device memory runs out, a kernel before failed, or for a view into an NF4 matrix.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        match (&*self.storage, device) {
            (Storage::Cpu(_), Device::Cpu) => Ok(self.clone()),
            (Storage::Cuda(s), Device::Cuda(to)) if s.device() == to => Ok(self.clone()),
            (Storage::Cuda(_), Device::Cuda(_)) => self.to_device(&Device::Cpu)?.to_device(device),
            (Storage::Cpu(CpuStorage::Nf4 { matrix, .. }), Device::Cuda(to)) => {
                self.whole_nf4(matrix.rows(), matrix.cols())?;
                Tensor::from_cuda_nf4(CudaNf4::upload(to, matrix)?)
            }
            (Storage::Cuda(CudaStorage::Nf4(matrix)), Device::Cpu) => {
                self.whole_nf4(matrix.rows, matrix.cols)?;
                Ok(Tensor::from_nf4(matrix.download()?))
            }
            (Storage::Cpu(_), Device::Cuda(to)) => self.upload(to),
            (Storage::Cuda(CudaStorage::Plain { dtype, .. }), Device::Cpu) => match dtype {
                DType::F32 => self.fetch::<f32>(),
                DType::F16 => self.fetch::<half::f16>(),
                DType::BF16 => self.fetch::<half::bf16>(),
                DType::U32 => self.fetch::<u32>(),
                DType::U8 => self.fetch::<u8>(),
                DType::Nf4 => Err(Error::dtype("to_device", "a plain dtype", *dtype)),
            },
        }
    }

    fn whole_nf4(&self, rows: usize, cols: usize) -> Result<()> {
        if self.shape() == [rows, cols] && self.is_contiguous() {
            return Ok(());
        }
        Err(Error::shape(
            "to_device",
            format!("a whole NF4 matrix [{rows}, {cols}], not a view"),
            self.shape(),
        ))
    }

    fn upload(&self, device: &CudaDevice) -> Result<Tensor> {
        let whole = self.contiguous()?;
        let bytes: &[u8] = match self.dtype() {
            DType::F32 => bytemuck::cast_slice(whole.as_slice::<f32>()?),
            DType::F16 => bytemuck::cast_slice(whole.as_slice::<half::f16>()?),
            DType::BF16 => bytemuck::cast_slice(whole.as_slice::<half::bf16>()?),
            DType::U32 => bytemuck::cast_slice(whole.as_slice::<u32>()?),
            DType::U8 => whole.as_slice::<u8>()?,
            DType::Nf4 => return Err(Error::dtype("to_device", "a plain dtype", DType::Nf4)),
        };
        Tensor::from_device_buffer(device.upload(bytes)?, self.shape(), self.dtype())
    }

    fn fetch<T: Element>(&self) -> Result<Tensor> {
        let whole = self.contiguous()?;
        let buffer = whole.device_buffer()?;
        let mut data = vec![T::zeroed(); whole.numel()];
        let start = whole.offset() * size_of::<T>();
        buffer.device().download(buffer, start, bytemuck::cast_slice_mut(&mut data))?;
        Tensor::from_vec(data, self.shape())
    }

    pub(super) fn contiguous_on(&self, device: &CudaDevice) -> Result<Tensor> {
        let size = self.dtype().bytes_for(1);
        let copy = strided_copy(device, self.device_buffer()?, &self.layout, size)?;
        Tensor::from_device_buffer(copy, self.shape(), self.dtype())
    }

    /// The buffer behind a tensor of a plain dtype on a GPU; a view's first element is at
    /// [`Tensor::device_ptr`].
    ///
    /// # Errors
    /// When the elements are in host memory or in NF4 blocks.
    pub fn device_buffer(&self) -> Result<&DeviceBuffer> {
        match &*self.storage {
            Storage::Cuda(CudaStorage::Plain { buffer, .. }) => Ok(buffer),
            Storage::Cuda(CudaStorage::Nf4(_)) => {
                Err(Error::dtype("device_buffer", "a plain dtype (NF4: nf4_on_device)", DType::Nf4))
            }
            Storage::Cpu(_) => Err(Error::DeviceMismatch {
                op: "device_buffer",
                expected: "a GPU".into(),
                got: Device::Cpu.to_string(),
            }),
        }
    }

    /// Device address of the first element of this view; that of the storage for an empty one.
    ///
    /// # Errors
    /// As [`Tensor::device_buffer`].
    pub fn device_ptr(&self) -> Result<u64> {
        let start = self.device_buffer()?.ptr();
        Ok(if self.numel() == 0 { start } else { start + self.dtype().bytes_for(self.offset()) as u64 })
    }

    /// [`Tensor::device_ptr`] of elements that a kernel will write. Copies first when the storage is shared
    /// or is more than this view, as [`Tensor::as_mut_slice`] does.
    ///
    /// # Errors
    /// As [`Tensor::device_buffer`], and when device memory runs out.
    pub fn device_ptr_mut(&mut self) -> Result<u64> {
        let bytes = self.dtype().bytes_for(self.numel());
        let whole = self.is_contiguous() && self.device_buffer()?.bytes() == bytes;
        if Arc::get_mut(&mut self.storage).is_none() || !whole {
            let device = self.device_buffer()?.device().clone();
            *self = self.contiguous_on(&device)?;
        }
        self.device_ptr()
    }

    /// The NF4 matrix on a GPU, when that is what the tensor holds. Whole: views share it.
    pub fn nf4_on_device(&self) -> Option<&CudaNf4> {
        match &*self.storage {
            Storage::Cuda(CudaStorage::Nf4(matrix)) => Some(matrix),
            _ => None,
        }
    }
}
