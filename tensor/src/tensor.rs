//! The tensor: shared storage and a layout over it.

mod device;

use crate::device::Device;
use crate::io::MappedFile;
use crate::ledger::Charge;
use crate::quant::Nf4Matrix;
use crate::storage::{Buffer, CpuStorage, Storage};
use crate::{DType, Element, Error, Layout, Result};
use std::sync::Arc;

/// An n-dimensional array. Cloning shares the storage; values do not change once a tensor is
/// shared ([`Tensor::as_mut_slice`] copies then).
#[derive(Debug, Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    layout: Layout,
}

impl Tensor {
    fn new(storage: CpuStorage, shape: &[usize]) -> Self {
        Tensor { storage: Arc::new(Storage::Cpu(storage)), layout: Layout::contiguous(shape) }
    }

    /// Takes `data` as the row-major elements of `shape`.
    ///
    /// # Errors
    /// When the length is not the product of the shape.
    pub fn from_vec<T: Element>(data: Vec<T>, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != data.len() {
            return Err(Error::shape("from_vec", format!("{} elements", data.len()), shape));
        }
        Ok(Tensor::new(T::wrap(Buffer::owned(data)), shape))
    }

    /// A tensor of one element and no dimensions.
    pub fn scalar(value: f32) -> Self {
        Tensor::new(f32::wrap(Buffer::owned(vec![value])), &[])
    }

    /// All zeros.
    ///
    /// # Errors
    /// For NF4, which has no zero tensor of its own: quantise instead.
    pub fn zeros(shape: &[usize], dtype: DType) -> Result<Self> {
        let n = shape.iter().product();
        match dtype {
            DType::F32 => Tensor::from_vec(crate::alloc::take_zeroed(n), shape),
            DType::F16 => Tensor::from_vec(vec![half::f16::ZERO; n], shape),
            DType::BF16 => Tensor::from_vec(vec![half::bf16::ZERO; n], shape),
            DType::U32 => Tensor::from_vec(vec![0u32; n], shape),
            DType::U8 => Tensor::from_vec(vec![0u8; n], shape),
            DType::Nf4 => Err(Error::dtype("zeros", "a plain dtype", dtype)),
        }
    }

    /// A range of a mapped file as a tensor, without copying.
    ///
    /// # Errors
    /// When the range lies outside the file, or for NF4 (see [`Tensor::from_nf4`]).
    pub fn from_mapped(
        file: Arc<MappedFile>,
        byte_offset: usize,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Self> {
        let n = shape.iter().product();
        let storage = match dtype {
            DType::F32 => f32::wrap(Buffer::mapped(file, byte_offset, n)?),
            DType::F16 => half::f16::wrap(Buffer::mapped(file, byte_offset, n)?),
            DType::BF16 => half::bf16::wrap(Buffer::mapped(file, byte_offset, n)?),
            DType::U32 => u32::wrap(Buffer::mapped(file, byte_offset, n)?),
            DType::U8 => u8::wrap(Buffer::mapped(file, byte_offset, n)?),
            DType::Nf4 => return Err(Error::dtype("from_mapped", "a plain dtype", dtype)),
        };
        Ok(Tensor::new(storage, shape))
    }

    /// A matrix `[rows, cols]` kept in NF4 blocks.
    pub fn from_nf4(matrix: Nf4Matrix) -> Self {
        let view = matrix.as_ref();
        let shape = [view.rows, view.cols];
        let charge = Charge::new(matrix.bytes());
        Tensor::new(CpuStorage::Nf4 { matrix, charge }, &shape)
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// The strides, in elements.
    pub fn strides(&self) -> &[usize] {
        self.layout.strides()
    }

    /// Index of the first element in the storage.
    pub fn offset(&self) -> usize {
        self.layout.offset()
    }

    /// Shape, strides and offset.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape().len()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.layout.numel()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match &*self.storage {
            Storage::Cpu(s) => s.dtype(),
            Storage::Cuda(s) => s.dtype(),
        }
    }

    /// True when the elements lie one after another in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_contiguous()
    }

    /// True when the elements are used in place from a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(&*self.storage, Storage::Cpu(s) if s.is_mapped())
    }

    /// The storage in host memory, for method `op` of the caller.
    ///
    /// # Errors
    /// [`Error::OnDevice`] when the elements lie on a GPU.
    pub fn cpu(&self, op: &'static str) -> Result<&CpuStorage> {
        match &*self.storage {
            Storage::Cpu(s) => Ok(s),
            Storage::Cuda(s) => Err(Error::OnDevice { op, device: s.device().name().to_string() }),
        }
    }

    /// The NF4 matrix, when that is what the tensor holds in host memory.
    pub fn nf4(&self) -> Option<&Nf4Matrix> {
        match &*self.storage {
            Storage::Cpu(CpuStorage::Nf4 { matrix, .. }) => Some(matrix),
            _ => None,
        }
    }

    /// The whole storage, for kernels that walk strides themselves (with [`Tensor::layout`]).
    ///
    /// # Errors
    /// When the dtype is not `T`'s or the elements lie on a GPU.
    pub fn storage_slice<T: Element>(&self) -> Result<&[T]> {
        T::unwrap(self.cpu("storage_slice")?)
            .map(Buffer::as_slice)
            .ok_or_else(|| Error::dtype("storage_slice", T::DTYPE.name(), self.dtype()))
    }

    /// The elements in row-major order, without copying.
    ///
    /// # Errors
    /// When the dtype is not `T`'s, the view is not contiguous, or the elements lie on a GPU.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        let all = self.storage_slice::<T>()?;
        if !self.is_contiguous() {
            return Err(Error::NotContiguous {
                op: "as_slice",
                shape: self.shape().to_vec(),
                strides: self.strides().to_vec(),
            });
        }
        Ok(&all[self.offset()..self.offset() + self.numel()])
    }

    /// The elements, to be written. Copies first when the storage is shared, mapped or a view.
    ///
    /// # Errors
    /// When the dtype is not `T`'s or the elements lie on a GPU.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        let whole = self.is_contiguous() && self.numel() == self.storage_slice::<T>()?.len();
        if Arc::get_mut(&mut self.storage).is_none() || !whole {
            let copy = Tensor::from_vec(self.gather::<T>()?, self.shape())?;
            *self = copy;
        }
        let dtype = self.dtype();
        Arc::get_mut(&mut self.storage)
            .and_then(|s| match s {
                Storage::Cpu(s) => T::unwrap_mut(s),
                Storage::Cuda(_) => None,
            })
            .map(Buffer::as_mut_slice)
            .ok_or_else(|| Error::dtype("as_mut_slice", T::DTYPE.name(), dtype))
    }

    /// The only element; from a GPU it is copied, after all work before.
    ///
    /// # Errors
    /// When there is not exactly one, or it is not a float.
    pub fn item(&self) -> Result<f32> {
        match self.to_vec_f32()?.as_slice() {
            [x] => Ok(*x),
            _ => Err(Error::shape("item", "exactly one element", self.shape())),
        }
    }

    /// The elements widened to f32, in row-major order, whatever the float dtype, layout and device.
    ///
    /// # Errors
    /// For integer dtypes, and when a kernel before failed.
    pub fn to_vec_f32(&self) -> Result<Vec<f32>> {
        if self.cuda_device().is_some() {
            return self.to_device(&Device::Cpu)?.to_vec_f32();
        }
        match self.cpu("to_vec_f32")? {
            CpuStorage::F32(_) => self.gather::<f32>(),
            CpuStorage::F16(_) => Ok(self.gather::<half::f16>()?.into_iter().map(f32::from).collect()),
            CpuStorage::BF16(_) => Ok(self.gather::<half::bf16>()?.into_iter().map(f32::from).collect()),
            CpuStorage::Nf4 { matrix, .. } => {
                let view = matrix.as_ref();
                let mut all = vec![0.0; view.rows * view.cols];
                matrix.dequantize_into(&mut all)?;
                Ok(self.layout.indices().map(|i| all[i]).collect())
            }
            _ => Err(Error::dtype("to_vec_f32", "a float dtype", self.dtype())),
        }
    }

    fn gather<T: Element>(&self) -> Result<Vec<T>> {
        let all = self.storage_slice::<T>()?;
        if self.is_contiguous() {
            return Ok(all[self.offset()..self.offset() + self.numel()].to_vec());
        }
        Ok(self.layout.indices().map(|i| all[i]).collect())
    }

    /// This tensor when contiguous, else a copy that is.
    ///
    /// # Errors
    /// For views of NF4 matrices, which stay in their blocks.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        if let Some(device) = self.cuda_device() {
            return self.contiguous_on(device);
        }
        let shape = self.shape();
        match self.dtype() {
            DType::F32 => Tensor::from_vec(self.gather::<f32>()?, shape),
            DType::F16 => Tensor::from_vec(self.gather::<half::f16>()?, shape),
            DType::BF16 => Tensor::from_vec(self.gather::<half::bf16>()?, shape),
            DType::U32 => Tensor::from_vec(self.gather::<u32>()?, shape),
            DType::U8 => Tensor::from_vec(self.gather::<u8>()?, shape),
            DType::Nf4 => Err(Error::dtype("contiguous", "a plain dtype", DType::Nf4)),
        }
    }

    fn with_layout(&self, layout: Layout) -> Tensor {
        Tensor { storage: self.storage.clone(), layout }
    }

    /// The same elements under another shape. A view when contiguous, else a copy.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        if self.is_contiguous() {
            return Ok(self.with_layout(self.layout.reshape(shape)?));
        }
        if shape.iter().product::<usize>() != self.numel() {
            return Err(Error::shape("reshape", format!("{} elements", self.numel()), shape));
        }
        self.contiguous()?.reshape(shape)
    }

    /// View whose dimension `i` is this tensor's dimension `order[i]`.
    ///
    /// # Errors
    /// When `order` is not a permutation of the dimensions.
    pub fn permute(&self, order: &[usize]) -> Result<Tensor> {
        Ok(self.with_layout(self.layout.permute(order)?))
    }

    /// View with two dimensions swapped.
    ///
    /// # Errors
    /// When a dimension does not exist.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Tensor> {
        let mut order: Vec<usize> = (0..self.rank()).collect();
        if a >= order.len() || b >= order.len() {
            return Err(Error::shape("transpose", format!("dimensions {a} and {b} to exist"), self.shape()));
        }
        order.swap(a, b);
        self.permute(&order)
    }

    /// View of elements `start..start+len` of dimension `dim`.
    ///
    /// # Errors
    /// When the range lies outside the dimension.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Tensor> {
        Ok(self.with_layout(self.layout.narrow(dim, start, len)?))
    }

    /// View that repeats this tensor to `shape` by NumPy's rule.
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        Ok(self.with_layout(self.layout.broadcast_to(shape)?))
    }

    /// A copy in another plain float dtype (round to nearest even), or this tensor if it has it.
    ///
    /// # Errors
    /// For integer dtypes, for NF4 as the target, and on a GPU, where `kernels::cuda::cast` does it.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        self.cpu("to_dtype")?;
        let shape = self.shape();
        match dtype {
            DType::F32 => Tensor::from_vec(self.to_vec_f32()?, shape),
            DType::F16 => {
                Tensor::from_vec(self.to_vec_f32()?.into_iter().map(half::f16::from_f32).collect(), shape)
            }
            DType::BF16 => {
                Tensor::from_vec(self.to_vec_f32()?.into_iter().map(half::bf16::from_f32).collect(), shape)
            }
            _ => Err(Error::dtype("to_dtype", "f32, f16 or bf16 as the target", dtype)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iota(shape: &[usize]) -> Tensor {
        Tensor::from_vec((0..shape.iter().product()).map(|i: usize| i as f32).collect(), shape).unwrap()
    }

    #[test]
    fn views_share_and_writes_do_not_leak() {
        let t = iota(&[2, 3]);
        let mut tt = t.transpose(0, 1).unwrap();
        assert!(tt.as_slice::<f32>().is_err());
        assert_eq!(tt.to_vec_f32().unwrap(), [0., 3., 1., 4., 2., 5.]);
        tt.as_mut_slice::<f32>().unwrap()[0] = 9.0;
        assert_eq!(t.to_vec_f32().unwrap()[0], 0.0);
        assert_eq!(tt.to_vec_f32().unwrap()[0], 9.0);

        let row = t.narrow(0, 1, 1).unwrap();
        assert_eq!(row.as_slice::<f32>().unwrap(), [3., 4., 5.]);
        let mut only = iota(&[4]);
        let before = only.as_slice::<f32>().unwrap().as_ptr();
        only.as_mut_slice::<f32>().unwrap()[1] = 7.0;
        assert_eq!(
            before,
            only.as_slice::<f32>().unwrap().as_ptr(),
            "an unshared tensor is written in place"
        );
    }

    #[test]
    fn wrong_shapes_and_dtypes_are_errors() {
        assert!(Tensor::from_vec(vec![1.0f32; 5], &[2, 3]).is_err());
        assert!(iota(&[6]).reshape(&[4]).is_err());
        assert!(iota(&[6]).as_slice::<u32>().is_err());
        assert!(iota(&[2]).item().is_err());
        assert!(iota(&[2]).transpose(0, 1).is_err());
        let text = iota(&[2, 3]).narrow(1, 2, 2).unwrap_err().to_string();
        assert!(text.contains("[2, 3]"), "{text}");
    }

    #[test]
    fn dtype_round_trip() {
        let t = Tensor::from_vec(vec![1.0f32, -2.5, 3.1], &[3]).unwrap();
        let b = t.to_dtype(DType::BF16).unwrap();
        assert_eq!(b.to_vec_f32().unwrap(), [1.0, -2.5, 3.093_75]);
        assert!(t.to_dtype(DType::U32).is_err());
    }
}
