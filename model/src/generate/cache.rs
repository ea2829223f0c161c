//! Keys and values of the tokens seen so far, one cache a sequence.

use medley_kernels::ops::attention::{
    DeviceKeyValues, KeyValues, attention_with_cache, attention_with_device_caches,
};
use medley_tensor::device::CudaDevice;
use medley_tensor::{Device, Error, Result, Tensor};
use rayon::prelude::*;

/// Tokens that a cache on a device has room for at first; it doubles when full.
const FIRST_ROOM: usize = 64;

/// Rotated keys and values of one sequence.
pub(super) struct KvCache {
    layers: Layers,
    len: usize,
}

enum Layers {
    /// `[tokens, kv_heads · head_dim]` a layer.
    Host(Vec<(Vec<f32>, Vec<f32>)>),
    /// `[room, kv_heads, head_dim]` a layer, in the compute dtype; `None` before the first token.
    Device(Vec<Option<(Tensor, Tensor)>>),
}

impl KvCache {
    pub(super) fn new(device: &Device, layers: usize) -> Self {
        let layers = match device {
            Device::Cpu => Layers::Host(vec![(vec![], vec![]); layers]),
            Device::Cuda(_) => Layers::Device(vec![None; layers]),
        };
        KvCache { layers, len: 0 }
    }

    /// Tokens every layer has seen.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Notes that every layer has seen `len` tokens.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len;
    }

    /// The two vectors of a layer in host memory.
    fn host(&mut self, layer: usize) -> Result<(&mut Vec<f32>, &mut Vec<f32>)> {
        match &mut self.layers {
            Layers::Host(layers) => {
                let (k, v) = &mut layers[layer];
                Ok((k, v))
            }
            Layers::Device(_) => Err(elsewhere("the CPU")),
        }
    }

    /// Adds the keys and values of new tokens, `[n, kv_heads, head_dim]` each, to a layer on a device.
    fn append(&mut self, device: &CudaDevice, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let seen = self.len;
        let Layers::Device(layers) = &mut self.layers else { return Err(elsewhere("a GPU")) };
        let slot = &mut layers[layer];
        let (keys, values) = match slot.take() {
            None => (grown(device, None, 0, k)?, grown(device, None, 0, v)?),
            Some((keys, values)) => {
                (grown(device, Some(keys), seen, k)?, grown(device, Some(values), seen, v)?)
            }
        };
        *slot = Some((keys, values));
        Ok(())
    }

    fn on_device(&self, layer: usize, len: usize) -> Result<DeviceKeyValues<'_>> {
        match &self.layers {
            Layers::Device(layers) => {
                let (k, v) = layers[layer].as_ref().ok_or_else(|| elsewhere("a GPU"))?;
                Ok(DeviceKeyValues { k, v, len })
            }
            Layers::Host(_) => Err(elsewhere("a GPU")),
        }
    }
}

fn elsewhere(place: &str) -> Error {
    Error::value("kv_cache", format!("keys and values lie on {place}, the cache was made for another device"))
}

/// `cache` with its first `seen` tokens and the rows `new` after them, in more room where it is full.
fn grown(device: &CudaDevice, cache: Option<Tensor>, seen: usize, new: &Tensor) -> Result<Tensor> {
    let new = new.contiguous()?;
    let row = new.shape()[1] * new.shape()[2] * new.dtype().bytes_for(1);
    let (count, needed) = (new.shape()[0], seen + new.shape()[0]);
    let cache = match cache {
        Some(cache) if cache.shape()[0] >= needed => cache,
        old => {
            let room = needed.max(2 * seen).max(FIRST_ROOM);
            let shape = [room, new.shape()[1], new.shape()[2]];
            let larger = Tensor::empty_on(&Device::Cuda(device.clone()), &shape, new.dtype())?;
            if let Some(old) = old {
                device.copy(larger.device_buffer()?, 0, old.device_buffer()?, 0, seen * row)?;
            }
            larger
        }
    };
    let from = (new.device_ptr()? - new.device_buffer()?.ptr()) as usize;
    device.copy(cache.device_buffer()?, seen * row, new.device_buffer()?, from, count * row)?;
    Ok(cache)
}

/// Attention of the new tokens of several sequences, each over its own cache, to which their keys
/// and values are added. Rows `ends[i - 1]..ends[i]` of q `[T, Hq, D]`, k and v `[T, Hkv, D]`
/// belong to sequence `i`.
pub(super) fn attend(
    caches: &mut [&mut KvCache],
    ends: &[usize],
    layer: usize,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    let start_of = |i: usize| if i == 0 { 0 } else { ends[i - 1] };
    if let Some(device) = q.cuda_device() {
        for (i, cache) in caches.iter_mut().enumerate() {
            let (start, count) = (start_of(i), ends[i] - start_of(i));
            cache.append(device, layer, &k.narrow(0, start, count)?, &v.narrow(0, start, count)?)?;
        }
        let views = caches
            .iter()
            .enumerate()
            .map(|(i, cache)| cache.on_device(layer, cache.len + ends[i] - start_of(i)))
            .collect::<Result<Vec<_>>>()?;
        return attention_with_device_caches(q, ends, &views, scale, None);
    }
    let (k, v) = (k.contiguous()?, v.contiguous()?);
    let (heads, head_dim) = (k.shape()[1], k.shape()[2]);
    let width = heads * head_dim;
    let (keys, values) = (k.as_slice::<f32>()?, v.as_slice::<f32>()?);
    let outputs: Vec<Tensor> = caches
        .par_iter_mut()
        .enumerate()
        .map(|(i, cache)| {
            let (start, end) = (start_of(i), ends[i]);
            let seen = cache.len;
            let (cached_k, cached_v) = cache.host(layer)?;
            cached_k.extend_from_slice(&keys[start * width..end * width]);
            cached_v.extend_from_slice(&values[start * width..end * width]);
            let view = KeyValues {
                k: cached_k,
                v: cached_v,
                len: seen + end - start,
                heads,
                token_stride: width,
                head_stride: head_dim,
            };
            attention_with_cache(&q.narrow(0, start, end - start)?, &view, scale, None, seen)
        })
        .collect::<Result<_>>()?;
    let mut all = Vec::with_capacity(q.numel());
    for o in &outputs {
        all.extend_from_slice(o.as_slice::<f32>()?);
    }
    Tensor::from_vec(all, q.shape())
}
