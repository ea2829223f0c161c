//! NF4 matrices in device memory, laid out as [`crate::quant::nf4`] lays them out on the host.

use super::{CudaDevice, DeviceBuffer};
use crate::quant::nf4::{BLOCK, NESTED_BLOCK};
use crate::quant::{Absmax, AbsmaxRef, Nf4Matrix};
use crate::{Error, Result};

/// A matrix `[rows, cols]` in NF4 blocks of 64 that run across rows.
#[derive(Debug)]
pub struct CudaNf4 {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// ⌈rows·cols / 2⌉ bytes; element 2i is the high nibble of byte i.
    pub codes: DeviceBuffer,
    /// One scale a block.
    pub absmax: CudaAbsmax,
}

/// The block scales of a [`CudaNf4`].
#[derive(Debug)]
pub enum CudaAbsmax {
    /// One f32 a block.
    F32(DeviceBuffer),
    /// Double quantised: `absmax[b] = table[codes[b]] · scales[b / 256] + offset`.
    Double {
        /// u8, one a block.
        codes: DeviceBuffer,
        /// f32[256].
        table: DeviceBuffer,
        /// f32, one for every 256 blocks.
        scales: DeviceBuffer,
        /// Added to every scale.
        offset: f32,
    },
}

impl CudaNf4 {
    /// Copies a matrix to the device.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn upload(device: &CudaDevice, matrix: &Nf4Matrix) -> Result<Self> {
        let view = matrix.as_ref();
        let absmax = match view.absmax {
            AbsmaxRef::F32(scales) => CudaAbsmax::F32(device.upload(bytemuck::cast_slice(scales))?),
            AbsmaxRef::Double { codes, map, nested, offset } => CudaAbsmax::Double {
                codes: device.upload(codes)?,
                table: device.upload(bytemuck::cast_slice(map))?,
                scales: device.upload(bytemuck::cast_slice(nested))?,
                offset,
            },
        };
        Ok(CudaNf4 { rows: view.rows, cols: view.cols, codes: device.upload(view.codes)?, absmax })
    }

    /// Copies the matrix to the host.
    ///
    /// # Errors
    /// When a kernel before failed, or the parts are not of the matrix's size.
    pub fn download(&self) -> Result<Nf4Matrix> {
        self.check()?;
        fn values<T: bytemuck::Pod>(buffer: &DeviceBuffer) -> Result<Vec<T>> {
            let mut out = vec![T::zeroed(); buffer.bytes() / size_of::<T>()];
            buffer.device().download(buffer, 0, bytemuck::cast_slice_mut(&mut out))?;
            Ok(out)
        }
        let absmax = match &self.absmax {
            CudaAbsmax::F32(scales) => Absmax::F32(values::<f32>(scales)?.into()),
            CudaAbsmax::Double { codes, table, scales, offset } => {
                let mut map = Box::new([0.0f32; 256]);
                table.device().download(table, 0, bytemuck::cast_slice_mut(map.as_mut_slice()))?;
                Absmax::Double {
                    codes: values::<u8>(codes)?.into(),
                    map,
                    nested: values::<f32>(scales)?.into(),
                    offset: *offset,
                }
            }
        };
        Ok(Nf4Matrix::from_parts(values::<u8>(&self.codes)?.into(), absmax, self.rows, self.cols)?)
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.codes.bytes()
            + match &self.absmax {
                CudaAbsmax::F32(scales) => scales.bytes(),
                CudaAbsmax::Double { codes, table, scales, .. } => {
                    codes.bytes() + table.bytes() + scales.bytes()
                }
            }
    }

    /// The device it lies on.
    pub fn device(&self) -> &CudaDevice {
        self.codes.device()
    }

    /// Refuses parts whose sizes are not the matrix's.
    pub(crate) fn check(&self) -> Result<()> {
        let blocks = (self.rows * self.cols).div_ceil(BLOCK);
        let part = |name: &str, buffer: &DeviceBuffer, expected: usize| {
            if buffer.bytes() == expected {
                return Ok(());
            }
            let (rows, cols, got) = (self.rows, self.cols, buffer.bytes());
            let message = format!("[{rows}, {cols}]: {name} holds {got} bytes, expected {expected}");
            Err(Error::value("nf4 on device", message))
        };
        part("codes", &self.codes, (self.rows * self.cols).div_ceil(2))?;
        match &self.absmax {
            CudaAbsmax::F32(scales) => part("absmax", scales, blocks * 4),
            CudaAbsmax::Double { codes, table, scales, .. } => {
                part("absmax codes", codes, blocks)?;
                part("table", table, 1024)?;
                part("scales", scales, blocks.div_ceil(NESTED_BLOCK) * 4)
            }
        }
    }
}
