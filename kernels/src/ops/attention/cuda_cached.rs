//! Attention of new tokens over caches of keys and values on a GPU, for generation. Not differentiable.
//! A few queries a sequence go to `attention_decode.cu`, all sequences in one launch; longer runs of queries (a
//! prompt) and heads of more than 128 to the forward kernel, a sequence at a time.

use super::cpu::{Problem, Segment};
use super::cuda::{self, HalfPtx, check_scale, half_ptx, readable, window_arg};
use super::{check_settings, heads};
use crate::cuda::{blocks_for, launch, ptr, ptx, suffix, u32_arg, upload};
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};
use std::f32::consts::LOG2_E;
use std::sync::LazyLock;

const NAME: &str = "attention_with_device_caches";
static DECODE: HalfPtx = half_ptx!("attention_decode.ptx");

/// More queries of a sequence than this go to the forward kernel.
const MAX_QUERIES: usize = 8;
/// Longer heads go to the forward kernel.
const MAX_D: usize = 128;
/// Keys that the warps of a block take in one turn; parts are multiples of it.
const TURN: usize = 64;
/// A block takes this many keys at least: fewer would cost more in the second kernel than they bring.
const MIN_PART: usize = 128;
const SHARED: u32 = 17 * 16 * 256;

/// Keys and values of one sequence on a GPU, in the queries' dtype.
#[derive(Debug, Clone, Copy)]
pub struct DeviceKeyValues<'a> {
    /// `[room, Hkv, D]`, contiguous.
    pub k: &'a Tensor,
    /// `[room, Hkv, D]`, contiguous.
    pub v: &'a Tensor,
    /// Tokens in the cache, the new ones included, at most `room`.
    pub len: usize,
}

/// One sequence, as `attention_decode.cu` reads it.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sequence {
    k: u64,
    v: u64,
    q_row: u32,
    queries: u32,
    keys: u32,
    pad: u32,
}

/// Causal attention of the newest tokens of several sequences, each over its own cache. Rows
/// `ends[i - 1]..ends[i]` of `q` `[Tq, Hq, D]` belong to sequence `i` and are the last tokens of
/// `caches[i]`; a query sees the keys up to its own, `window` of them at most. Returns `[Tq, Hq, D]` in q's
/// dtype (f32, bf16 or f16). The same call gives the same bits on the same kind of card.
///
/// # Errors
/// When q is not on a GPU, a cache does not fit q (shape, dtype, device, more queries than tokens), `ends` do not
/// rise to Tq, Hq is no multiple of Hkv, the window is 0, the scale is not positive, or device memory
/// runs out.
pub fn attention_with_device_caches(
    q: &Tensor,
    ends: &[usize],
    caches: &[DeviceKeyValues],
    scale: f32,
    window: Option<usize>,
) -> Result<Tensor> {
    let Some(device) = q.cuda_device() else {
        return Err(Error::value(NAME, "q lies on the CPU; attention_with_cache reads caches there"));
    };
    let (tq, hq, d) = heads(NAME, q)?;
    if ends.len() != caches.len() || ends.last().copied().unwrap_or(0) != tq || ends.windows(2).any(|w| w[0] > w[1]) {
        let message = format!("{} caches, and ends {ends:?} that must rise to {tq} queries", caches.len());
        return Err(Error::value(NAME, message));
    }
    let Some(first) = caches.first() else { return Ok(q.clone()) };
    let (_, hkv, _) = heads(NAME, first.k)?;
    check_settings(NAME, hq, hkv, window)?;
    check_scale(NAME, scale)?;
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let mut segments = Vec::with_capacity(caches.len());
    for ((start, end), cache) in starts.zip(ends).zip(caches) {
        check_cache(device, q, hkv, end - start, cache)?;
        segments.push(Segment {
            q: start,
            q_len: end - start,
            k: 0,
            k_len: cache.len,
            position: cache.len - (end - start),
        });
    }
    let problem = |segments| Problem { d, hq, hkv, scale, window, segments };
    let few = segments.iter().all(|s| s.q_len <= MAX_QUERIES);
    if few && q.dtype() != DType::F32 && d.is_multiple_of(8) && d <= MAX_D {
        return decode(device, &problem(segments), q, caches);
    }
    let mut outputs = Vec::with_capacity(caches.len());
    for (s, cache) in segments.into_iter().zip(caches).filter(|(s, _)| s.q_len > 0) {
        let rows = q.narrow(0, s.q, s.q_len)?;
        let (k, v) = (cache.k.narrow(0, 0, cache.len)?, cache.v.narrow(0, 0, cache.len)?);
        outputs.push(cuda::forward(device, &problem(vec![Segment { q: 0, ..s }]), &rows, &k, &v)?.0);
    }
    joined(device, q, &outputs)
}

fn check_cache(device: &CudaDevice, q: &Tensor, hkv: usize, queries: usize, cache: &DeviceKeyValues) -> Result<()> {
    let d = q.shape()[2];
    for x in [cache.k, cache.v] {
        if x.dtype() != q.dtype() {
            return Err(Error::dtype(NAME, format!("a cache in q's {}", q.dtype()), x.dtype()));
        }
        // Its place: the kernels are given addresses.
        ptr(NAME, device, x)?;
        match *x.shape() {
            [room, heads, width] if heads == hkv && width == d && room >= cache.len => {}
            _ => {
                let expected = format!("a cache [{} or more, {hkv}, {d}]", cache.len);
                return Err(Error::shape(NAME, expected, x.shape()));
            }
        }
    }
    if queries > cache.len {
        let message = format!("{queries} queries and {} tokens in the cache; add the new keys first", cache.len);
        return Err(Error::value(NAME, message));
    }
    Ok(())
}

/// The outputs one after the other.
fn joined(device: &CudaDevice, like: &Tensor, parts: &[Tensor]) -> Result<Tensor> {
    if let [one] = parts {
        return Ok(one.clone());
    }
    let out = Tensor::empty_on(&Device::Cuda(device.clone()), like.shape(), like.dtype())?;
    let mut at = 0;
    for part in parts {
        let bytes = part.numel() * part.dtype().bytes_for(1);
        let from = (part.device_ptr()? - part.device_buffer()?.ptr()) as usize;
        device.copy(out.device_buffer()?, at, part.device_buffer()?, from, bytes)?;
        at += bytes;
    }
    Ok(out)
}

fn decode(device: &CudaDevice, p: &Problem, q: &Tensor, caches: &[DeviceKeyValues]) -> Result<Tensor> {
    let q = readable(device, q, false)?;
    let on = Device::Cuda(device.clone());
    let out = Tensor::empty_on(&on, q.shape(), q.dtype())?;
    let (rows, group) = (q.shape()[0] * p.hq, p.hq / p.hkv);
    let mut sequences = Vec::with_capacity(caches.len());
    let (mut most_queries, mut most_keys) = (0, 0);
    for (s, cache) in p.segments.iter().zip(caches) {
        most_queries = most_queries.max(s.q_len);
        // From the first key any query sees, rounded down to a tile of 16.
        let seen = p.window.map_or(s.k_len, |w| s.k_len.min(s.q_len + w + 15));
        most_keys = most_keys.max(seen);
        sequences.push(Sequence {
            k: cache.k.device_ptr()?,
            v: cache.v.device_ptr()?,
            q_row: s.q as u32,
            queries: s.q_len as u32,
            keys: s.k_len as u32,
            pad: 0,
        });
    }
    let row_tiles = (most_queries * group).div_ceil(16);
    let blocks = (p.hkv * row_tiles * sequences.len()).max(1);
    let wanted = (2 * device.info().multiprocessors as usize).div_ceil(blocks);
    let parts = wanted.clamp(1, most_keys.div_ceil(MIN_PART).max(1));
    let part_keys = most_keys.div_ceil(parts).next_multiple_of(TURN).max(TURN);
    let parts = most_keys.div_ceil(part_keys).max(1);
    let partial = if parts > 1 { parts * rows } else { 0 };
    let part_o = Tensor::empty_on(&on, &[partial, p.d], DType::F32)?;
    let part_lse = Tensor::empty_on(&on, &[partial], DType::F32)?;
    let table = upload(device, &sequences)?;
    let (token, head) = (p.hkv * p.d, p.d);
    let arguments = [
        KernelArg::Ptr(q.device_ptr()?),
        ptr(NAME, device, &out)?,
        ptr(NAME, device, &part_o)?,
        ptr(NAME, device, &part_lse)?,
        KernelArg::Ptr(table.ptr()),
        u32_arg(NAME, "the distance of tokens", q.strides()[0])?,
        u32_arg(NAME, "the distance of heads", q.strides()[1])?,
        u32_arg(NAME, "the row length", token)?,
        u32_arg(NAME, "the head size", head)?,
        u32_arg(NAME, "the number of heads", p.hq)?,
        u32_arg(NAME, "the group", group)?,
        u32_arg(NAME, "the tiles of queries", row_tiles)?,
        u32_arg(NAME, "the number of rows", rows)?,
        u32_arg(NAME, "the keys of a part", part_keys)?,
        u32_arg(NAME, "the head size", p.d)?,
        window_arg(p.window),
        KernelArg::F32(p.scale * LOG2_E),
    ];
    let dtype = suffix(NAME, q.dtype())?;
    let module = DECODE.of(q.dtype());
    let grid = [blocks_for(NAME, p.hkv * row_tiles, 1)?, parts as u32, blocks_for(NAME, sequences.len(), 1)?];
    launch(device, module, &format!("attention_fwd_decode_d128_{dtype}"), grid, [128, 1, 1], SHARED, &arguments)?;
    if parts > 1 {
        let arguments = [
            ptr(NAME, device, &out)?,
            ptr(NAME, device, &part_o)?,
            ptr(NAME, device, &part_lse)?,
            u32_arg(NAME, "the number of rows", rows)?,
            u32_arg(NAME, "the number of parts", parts)?,
            u32_arg(NAME, "the head size", p.d)?,
        ];
        let grid = [blocks_for(NAME, rows, 4)?, 1, 1];
        launch(device, module, &format!("attention_fwd_combine_{dtype}"), grid, [128, 1, 1], 0, &arguments)?;
    }
    Ok(out)
}
