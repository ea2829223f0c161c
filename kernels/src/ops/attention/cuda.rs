//! Attention on a GPU: launches of `attention_forward.cu`, `attention_backward.cu`, `attention_f32.cu` and
//! `attention_rows.cu`.

use super::cpu::Problem;
use crate::cuda::{blocks_for, launch, on_device, ptr, ptx, suffix, u32_arg, upload};
use medley_tensor::device::{CudaDevice, Device, DeviceBuffer, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};
use std::cmp::Reverse;
use std::f32::consts::LOG2_E;
use std::sync::LazyLock;

const NAME: &str = "attention";
/// The longest head.
const MAX_D: usize = 256;
/// Positions are 32-bit differences in the kernels.
const MAX_TOKENS: usize = 1 << 29;

/// Kernels of both 16-bit dtypes. They differ in the names of the types alone (`mma…bf16.bf16`,
/// `cvt.rn.bf16x2`), so one text ships and the other is made from it.
pub(super) struct HalfPtx {
    pub(super) bf16: Ptx,
    pub(super) f16: LazyLock<Ptx>,
}

impl HalfPtx {
    /// The module for `dtype`, bf16 or f16.
    pub(super) fn of(&'static self, dtype: DType) -> &'static Ptx {
        if dtype == DType::F16 { &self.f16 } else { &self.bf16 }
    }
}

/// The PTX beside the source file that names it, and its f16 twin.
macro_rules! half_ptx {
    ($file:literal) => {
        HalfPtx {
            bf16: ptx!($file),
            f16: LazyLock::new(|| Ptx {
                name: concat!($file, " in f16"),
                source: String::leak(include_str!($file).replace("bf16", "f16")),
            }),
        }
    };
}
pub(super) use half_ptx;

static FORWARD: HalfPtx = half_ptx!("attention_forward.ptx");
static BACKWARD: HalfPtx = half_ptx!("attention_backward.ptx");
static F32: Ptx = ptx!("attention_f32.ptx");
static ROWS: Ptx = ptx!("attention_rows.ptx");

/// A kernel's tile: how many rows of the work list's entries it takes, and what a block needs.
#[derive(Debug, Clone, Copy)]
struct Tile {
    rows: usize,
    threads: u32,
    shared: usize,
}

/// Which instance of the kernels runs a head size.
#[derive(Debug, Clone)]
struct Variant {
    /// After `attention_fwd_`, `attention_bwd_keys_` and `attention_bwd_queries_` in the entries' names.
    suffix: String,
    forward: Tile,
    keys: Tile,
    queries: Tile,
}

impl Variant {
    /// For heads of `d` elements; `d` is a multiple of 8 but in f32.
    fn of(dtype: DType, d: usize) -> Result<Variant> {
        let name = suffix(NAME, dtype)?;
        if d > MAX_D {
            return Err(Error::value(NAME, format!("heads of {d} elements; the CUDA kernels take up to {MAX_D}")));
        }
        let tile = |rows, threads, shared| Tile { rows, threads, shared };
        if dtype == DType::F32 {
            let row = 4 * 16 * (d.next_multiple_of(4) + 4);
            let backward = tile(16, 256, 4 * row + 2 * 4 * 16 * 17);
            let forward = tile(16, 256, 3 * row + 4 * 16 * 17);
            return Ok(Variant { suffix: "f32".into(), forward, keys: backward, queries: backward });
        }
        // Rows of two tiles that stay, two stages of two tiles that pass, and their lse and delta.
        let backward = |stay: usize, pass: usize, row: usize| 2 * stay * row + 4 * pass * row + 16 * pass;
        let (row, forward, keys, queries) = match d {
            ..=64 => {
                let t = tile(64, 128, backward(64, 32, 128));
                (64, tile(64, 128, 3 * 64 * 128), t, t)
            }
            65..=128 => {
                let t = tile(64, 128, backward(64, 16, 256));
                (128, tile(64, 128, 3 * 64 * 256), t, t)
            }
            _ => {
                let t = |threads| tile(64, threads, backward(64, 16, 512));
                (256, tile(128, 256, 128 * 512 + 2 * 32 * 512), t(256), t(128))
            }
        };
        Ok(Variant { suffix: format!("d{row}_{name}"), forward, keys, queries })
    }
}

/// Work lists, four words an entry, the longest work first.
impl Problem {
    /// Tiles of queries: first row, rows, first key row of the sequence, position of the first query.
    fn query_tiles(&self, rows: usize) -> Vec<[u32; 4]> {
        let mut tiles = Vec::new();
        for s in &self.segments {
            for q in (0..s.q_len).step_by(rows) {
                let n = rows.min(s.q_len - q);
                let keys = (s.position + q + n).min(self.window.unwrap_or(usize::MAX).saturating_add(n));
                tiles.push((keys, [s.q + q, n, s.k, s.position + q].map(|x| x as u32)));
            }
        }
        longest_first(tiles)
    }

    /// Tiles of keys: first row, rows, end of the sequence, its start.
    fn key_tiles(&self, rows: usize) -> Vec<[u32; 4]> {
        let mut tiles = Vec::new();
        for s in &self.segments {
            for k in (0..s.k_len).step_by(rows) {
                let n = rows.min(s.k_len - k);
                let queries = (s.k_len - k).min(self.window.unwrap_or(usize::MAX).saturating_add(n));
                tiles.push((queries, [s.k + k, n, s.k + s.k_len, s.k].map(|x| x as u32)));
            }
        }
        longest_first(tiles)
    }
}

fn longest_first(mut tiles: Vec<(usize, [u32; 4])>) -> Vec<[u32; 4]> {
    tiles.sort_by_key(|(cost, _)| Reverse(*cost));
    tiles.into_iter().map(|(_, tile)| tile).collect()
}

/// The kernels' softmax takes its maximum before scaling, so the scale must be a positive number.
pub(super) fn check_scale(op: &'static str, scale: f32) -> Result<()> {
    if scale > 0.0 && scale.is_finite() {
        return Ok(());
    }
    Err(Error::value(op, format!("the scale is {scale}; the CUDA kernels take a positive number")))
}

/// The window as the kernels take it.
pub(super) fn window_arg(window: Option<usize>) -> KernelArg {
    KernelArg::U32(window.and_then(|w| u32::try_from(w).ok()).unwrap_or(u32::MAX))
}

/// `[T, heads, D]` as the kernels read it: D a multiple of 8 and rows at multiples of 16 bytes in 16-bit dtypes,
/// elements of a row side by side. A copy, its columns padded with zeros, where `x` is not so or, with `dense`,
/// not contiguous.
pub(super) fn readable(device: &CudaDevice, x: &Tensor, dense: bool) -> Result<Tensor> {
    on_device(NAME, device, x)?;
    let x = if x.strides().last() == Some(&1) { x.clone() } else { x.contiguous()? };
    let d = x.shape()[2];
    let dense = !dense || x.is_contiguous();
    if x.dtype() == DType::F32 {
        return if dense { Ok(x) } else { x.contiguous() };
    }
    let strides_fit = x.strides()[..2].iter().all(|s| s.is_multiple_of(8));
    if dense && d.is_multiple_of(8) && strides_fit && x.device_ptr()?.is_multiple_of(16) {
        return Ok(x);
    }
    resized(device, &x, d.next_multiple_of(8))
}

/// A contiguous copy with rows of `d` elements: cut, or padded with zeros. `x` is bf16 or f16, its elements side
/// by side.
pub(super) fn resized(device: &CudaDevice, x: &Tensor, d: usize) -> Result<Tensor> {
    let [tokens, heads, from_d] = *x.shape() else { return Err(Error::shape(NAME, "[T, heads, D]", x.shape())) };
    let out = Tensor::empty_on(&Device::Cuda(device.clone()), &[tokens, heads, d], x.dtype())?;
    let rows = tokens * heads;
    let arguments = [
        ptr(NAME, device, &out)?,
        KernelArg::Ptr(x.device_ptr()?),
        u32_arg(NAME, "the number of rows", rows)?,
        u32_arg(NAME, "the number of heads", heads)?,
        u32_arg(NAME, "the head size", d)?,
        u32_arg(NAME, "the head size", from_d)?,
        u32_arg(NAME, "the distance of tokens", x.strides()[0])?,
        u32_arg(NAME, "the distance of heads", x.strides()[1])?,
    ];
    let grid = [blocks_for(NAME, rows, 8)?, 1, 1];
    launch(device, &ROWS, "attention_fwd_copy_b16", grid, [256, 1, 1], 0, &arguments)?;
    Ok(out)
}

/// What the backward kernels read. Heads of q, k, v and o are padded to what the kernels take.
pub struct Saved {
    device: CudaDevice,
    problem: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    /// `[Hq, T]` f32, base 2.
    lse: Tensor,
}

/// Token and head strides of q, k and v.
fn stride_args(tensors: [&Tensor; 3]) -> Result<Vec<KernelArg>> {
    let strides = tensors.into_iter().flat_map(|x| [x.strides()[0], x.strides()[1]]);
    strides.map(|s| u32_arg(NAME, "a distance of tokens or heads", s)).collect()
}

fn grid(heads: usize, tiles: &[[u32; 4]]) -> Result<[u32; 3]> {
    Ok([blocks_for(NAME, heads, 1)?, blocks_for(NAME, tiles.len(), 1)?, 1])
}

fn upload_tiles(device: &CudaDevice, tiles: &[[u32; 4]]) -> Result<DeviceBuffer> {
    upload(device, tiles.as_flattened())
}

/// `o [Tq, Hq, D]` in q's dtype. `p.segments` say which queries see which keys, so that k and v may have
/// other tokens than q (a cache).
pub(super) fn forward(device: &CudaDevice, p: &Problem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Saved)> {
    for x in [k, v] {
        if x.dtype() != q.dtype() {
            return Err(Error::dtype(NAME, format!("k and v in q's {}", q.dtype()), x.dtype()));
        }
    }
    check_scale(NAME, p.scale)?;
    if q.shape()[0].max(k.shape()[0]) > MAX_TOKENS {
        return Err(Error::value(NAME, format!("more than {MAX_TOKENS} tokens in one call")));
    }
    let (q, k, v) = (readable(device, q, false)?, readable(device, k, false)?, readable(device, v, false)?);
    let (tokens, d) = (q.shape()[0], q.shape()[2]);
    let variant = Variant::of(q.dtype(), d)?;
    let on = Device::Cuda(device.clone());
    let o = Tensor::empty_on(&on, q.shape(), q.dtype())?;
    let lse = Tensor::empty_on(&on, &[p.hq, tokens], DType::F32)?;
    let tiles = p.query_tiles(variant.forward.rows);
    let work = upload_tiles(device, &tiles)?;
    let mut arguments: Vec<KernelArg> = Vec::with_capacity(17);
    for x in [&q, &k, &v, &o, &lse] {
        arguments.push(KernelArg::Ptr(x.device_ptr()?));
    }
    arguments.push(KernelArg::Ptr(work.ptr()));
    arguments.extend(stride_args([&q, &k, &v])?);
    arguments.extend([
        u32_arg(NAME, "the number of tokens", tokens)?,
        u32_arg(NAME, "the group", p.hq / p.hkv)?,
        u32_arg(NAME, "the head size", d)?,
        window_arg(p.window),
        KernelArg::F32(p.scale * LOG2_E),
    ]);
    let tile = variant.forward;
    let module = if q.dtype() == DType::F32 { &F32 } else { FORWARD.of(q.dtype()) };
    let entry = format!("attention_fwd_{}", variant.suffix);
    let block = [tile.threads, 1, 1];
    launch(device, module, &entry, grid(p.hq, &tiles)?, block, tile.shared as u32, &arguments)?;
    let out = if d == p.d { o.clone() } else { resized(device, &o, p.d)? };
    let problem = p.clone();
    Ok((out, Saved { device: device.clone(), problem, q, k, v, o, lse }))
}

/// `[dq, dk, dv]` in q's dtype.
pub(super) fn backward(saved: &Saved, d_out: &Tensor, needs: &[bool]) -> Result<[Option<Tensor>; 3]> {
    let Saved { device, problem: p, q, k, v, o, lse } = saved;
    let (tokens, d) = (q.shape()[0], q.shape()[2]);
    if d_out.dtype() != q.dtype() {
        return Err(Error::dtype(NAME, format!("a gradient of q's {}", q.dtype()), d_out.dtype()));
    }
    if d_out.shape() != [tokens, p.hq, p.d] {
        return Err(Error::shape(NAME, format!("a gradient [{tokens}, {}, {}]", p.hq, p.d), d_out.shape()));
    }
    let d_out = readable(device, d_out, true)?;
    let variant = Variant::of(q.dtype(), d)?;
    let on = Device::Cuda(device.clone());

    let delta = Tensor::empty_on(&on, &[p.hq, tokens], DType::F32)?;
    let arguments = [
        ptr(NAME, device, &d_out)?,
        ptr(NAME, device, o)?,
        ptr(NAME, device, &delta)?,
        u32_arg(NAME, "the number of tokens", tokens)?,
        u32_arg(NAME, "the number of heads", p.hq)?,
        u32_arg(NAME, "the head size", d)?,
    ];
    let entry = format!("attention_bwd_delta_{}", suffix(NAME, q.dtype())?);
    launch(device, &ROWS, &entry, [blocks_for(NAME, tokens * p.hq, 32)?, 1, 1], [256, 1, 1], 0, &arguments)?;

    let pass = |pass: &str, tile: Tile, heads: usize, tiles: &[[u32; 4]], out: [Option<&Tensor>; 2]| -> Result<()> {
        let work = upload_tiles(device, tiles)?;
        let mut arguments = Vec::with_capacity(21);
        for x in [q, k, v, &d_out, lse, &delta] {
            arguments.push(KernelArg::Ptr(x.device_ptr()?));
        }
        for x in out {
            arguments.push(KernelArg::Ptr(x.map_or(Ok(0), Tensor::device_ptr)?));
        }
        arguments.push(KernelArg::Ptr(work.ptr()));
        arguments.extend(stride_args([q, k, v])?);
        arguments.extend([
            u32_arg(NAME, "the number of tokens", tokens)?,
            u32_arg(NAME, "the group", p.hq / p.hkv)?,
            u32_arg(NAME, "the head size", d)?,
            window_arg(p.window),
            KernelArg::F32(p.scale),
            KernelArg::F32(p.scale * LOG2_E),
        ]);
        let (module, entry) = match q.dtype() {
            DType::F32 => (&F32, "attention_bwd_f32".to_string()),
            half => (BACKWARD.of(half), format!("attention_bwd_{pass}_{}", variant.suffix)),
        };
        launch(device, module, &entry, grid(heads, tiles)?, [tile.threads, 1, 1], tile.shared as u32, &arguments)
    };
    let unpadded = |x: Tensor| if d == p.d { Ok(x) } else { resized(device, &x, p.d) };

    let mut gradients = [None, None, None];
    if needs[0] {
        let dq = Tensor::empty_on(&on, q.shape(), q.dtype())?;
        pass("queries", variant.queries, p.hq, &p.query_tiles(variant.queries.rows), [Some(&dq), None])?;
        gradients[0] = Some(unpadded(dq)?);
    }
    if needs[1] || needs[2] {
        let dk = Tensor::empty_on(&on, k.shape(), q.dtype())?;
        let dv = Tensor::empty_on(&on, k.shape(), q.dtype())?;
        pass("keys", variant.keys, p.hkv, &p.key_tiles(variant.keys.rows), [Some(&dk), Some(&dv)])?;
        gradients[1] = if needs[1] { Some(unpadded(dk)?) } else { None };
        gradients[2] = if needs[2] { Some(unpadded(dv)?) } else { None };
    }
    Ok(gradients)
}
