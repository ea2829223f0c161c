//! Page-locked host memory: the only kind the device copies from and to while the host goes on.

use super::driver::{Driver, Event, HostPointer, Stream};
use super::{CudaDevice, DeviceBuffer};
use crate::{Error, Result};
use std::sync::Arc;

/// Page-locked host memory with at most one copy under way. Reading or writing it waits for that copy.
pub struct PinnedBuffer {
    driver: Arc<dyn Driver>,
    pointer: HostPointer,
    bytes: usize,
    event: Event,
}

impl PinnedBuffer {
    /// `bytes` of page-locked memory, zeroed.
    ///
    /// # Errors
    /// When the host has no memory to lock.
    pub fn new(device: &CudaDevice, bytes: usize) -> Result<Self> {
        let driver = device.shared_driver();
        // A length of zero is legal here but not for the driver.
        let pointer = driver.alloc_host(bytes.max(1))?;
        let event = match driver.create_event(false) {
            Ok(event) => event,
            Err(error) => {
                driver.free_host(pointer, bytes.max(1))?;
                return Err(error.into());
            }
        };
        // SAFETY: the driver returned at least `bytes` bytes that nobody else knows of.
        unsafe { pointer.0.as_ptr().write_bytes(0, bytes) };
        Ok(PinnedBuffer { driver, pointer, bytes, event })
    }

    /// The bytes, after the copy under way.
    ///
    /// # Errors
    /// When work before the copy failed.
    pub fn as_slice(&self) -> Result<&[u8]> {
        self.driver.event_synchronize(self.event)?;
        // SAFETY: `bytes` initialised bytes that live as long as `self`; no copy is under way.
        Ok(unsafe { std::slice::from_raw_parts(self.pointer.0.as_ptr(), self.bytes) })
    }

    /// The bytes to be written, after the copy under way.
    ///
    /// # Errors
    /// When work before the copy failed.
    pub fn as_mut_slice(&mut self) -> Result<&mut [u8]> {
        self.driver.event_synchronize(self.event)?;
        // SAFETY: as above, and borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pointer.0.as_ptr(), self.bytes) })
    }

    fn range(&self, op: &'static str, to: &DeviceBuffer, offset: usize, bytes: usize) -> Result<u64> {
        if bytes <= self.bytes && offset.checked_add(bytes).is_some_and(|end| end <= to.bytes()) {
            return Ok(to.ptr() + offset as u64);
        }
        Err(Error::value(
            op,
            format!(
                "{bytes} bytes at offset {offset} do not fit a device buffer of {} bytes and a host buffer of \
                 {} bytes",
                to.bytes(),
                self.bytes
            ),
        ))
    }

    /// Starts copying the first `bytes` bytes to `to` at byte `offset`, in `stream`. In another stream than
    /// the device's own, `to` must live until the copy has passed ([`PinnedBuffer::as_slice`] waits for it):
    /// dropped before, its memory goes to the next buffer of the compute stream, which does not wait.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn copy_to(&mut self, to: &DeviceBuffer, offset: usize, bytes: usize, stream: Stream) -> Result<()> {
        let address = self.range("copy_to", to, offset, bytes)?;
        let source = &self.as_slice()?[..bytes];
        if bytes > 0 {
            self.driver.copy_to_device(address, source, stream)?;
        }
        Ok(self.driver.record(self.event, stream)?)
    }

    /// Starts copying `bytes` bytes of `from` at byte `offset` to the start of this buffer, in `stream`; as
    /// for [`PinnedBuffer::copy_to`], in another stream than the device's own `from` must outlive the copy.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn copy_from(
        &mut self,
        from: &DeviceBuffer,
        offset: usize,
        bytes: usize,
        stream: Stream,
    ) -> Result<()> {
        let address = self.range("copy_from", from, offset, bytes)?;
        let driver = self.driver.clone();
        let target = &mut self.as_mut_slice()?[..bytes];
        if bytes > 0 {
            driver.copy_to_host(target, address, stream)?;
        }
        Ok(driver.record(self.event, stream)?)
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        // A failure here was or will be reported by the next call that returns errors: faults are sticky.
        // Memory under an unfinished copy must not be freed, so after a failed wait it is kept.
        if self.driver.event_synchronize(self.event).is_ok() {
            let _ = self.driver.destroy_event(self.event);
            let _ = self.driver.free_host(self.pointer, self.bytes.max(1));
        }
    }
}
