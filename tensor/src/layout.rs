//! Shape, strides and offset of a view, all counted in elements.

use crate::{Error, Result};

/// How a tensor's indices map to its storage: `offset + Σ index[d]·strides[d]`.
/// A stride of 0 repeats an element (broadcasting).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

/// Row-major strides of a shape.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d].max(1);
    }
    strides
}

impl Layout {
    /// A row-major layout from offset 0.
    pub fn contiguous(shape: &[usize]) -> Self {
        Layout { shape: shape.to_vec(), strides: row_major(shape), offset: 0 }
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The strides, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Index of the first element in the storage.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when the elements lie one after another in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&n, &s) in self.shape.iter().zip(&self.strides).rev() {
            if n == 0 {
                return true;
            }
            if n != 1 && s != expected {
                return false;
            }
            expected *= n;
        }
        true
    }

    /// The same elements under another shape; only for contiguous layouts.
    pub fn reshape(&self, shape: &[usize]) -> Result<Layout> {
        if shape.iter().product::<usize>() != self.numel() {
            return Err(Error::shape("reshape", format!("{} elements", self.numel()), shape));
        }
        if !self.is_contiguous() {
            return Err(Error::NotContiguous {
                op: "reshape",
                shape: self.shape.clone(),
                strides: self.strides.clone(),
            });
        }
        Ok(Layout { shape: shape.to_vec(), strides: row_major(shape), offset: self.offset })
    }

    /// Dimension `i` of the result is dimension `order[i]` of this layout.
    pub fn permute(&self, order: &[usize]) -> Result<Layout> {
        let mut seen = vec![false; self.shape.len()];
        let valid = order.len() == self.shape.len()
            && order.iter().all(|&d| d < seen.len() && !std::mem::replace(&mut seen[d], true));
        if !valid {
            return Err(Error::shape("permute", format!("a permutation, got order {order:?}"), &self.shape));
        }
        Ok(Layout {
            shape: order.iter().map(|&d| self.shape[d]).collect(),
            strides: order.iter().map(|&d| self.strides[d]).collect(),
            offset: self.offset,
        })
    }

    /// Elements `start..start+len` of dimension `dim`.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Layout> {
        let fits = dim < self.shape.len() && start.checked_add(len).is_some_and(|end| end <= self.shape[dim]);
        if !fits {
            return Err(Error::shape(
                "narrow",
                format!("dimension {dim} to hold {start}..{start}+{len}"),
                &self.shape,
            ));
        }
        let mut out = self.clone();
        out.shape[dim] = len;
        // A view of nothing stays where it is: its storage may be empty, and no offset lies inside.
        if out.numel() > 0 {
            out.offset += start * self.strides[dim];
        }
        Ok(out)
    }

    /// NumPy's rule: missing leading dimensions and dimensions of extent 1 repeat.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Layout> {
        let bad =
            || Error::shape("broadcast_to", format!("a shape that broadcasts to {shape:?}"), &self.shape);
        let lead = shape.len().checked_sub(self.shape.len()).ok_or_else(bad)?;
        let mut strides = vec![0; shape.len()];
        for (d, (&n, &s)) in self.shape.iter().zip(&self.strides).enumerate() {
            match n {
                _ if n == shape[lead + d] => strides[lead + d] = s,
                1 => {}
                _ => return Err(bad()),
            }
        }
        Ok(Layout { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// Storage indices of all elements in row-major order of the view.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        let mut index = vec![0usize; self.shape.len()];
        let mut at = self.offset;
        let mut left = self.numel();
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            left -= 1;
            let here = at;
            for d in (0..index.len()).rev() {
                index[d] += 1;
                at += self.strides[d];
                if index[d] < self.shape[d] {
                    break;
                }
                at -= self.strides[d] * self.shape[d];
                index[d] = 0;
            }
            Some(here)
        })
    }
}

/// The shape two shapes broadcast to under NumPy's rule.
pub fn broadcast_shape(op: &'static str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], d: usize| (d + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|d| match (at(a, d), at(b, d)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::shape(op, format!("a shape that broadcasts with {a:?}"), b)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views() {
        let l = Layout::contiguous(&[2, 3, 4]);
        assert!(l.is_contiguous());
        let p = l.permute(&[2, 0, 1]).unwrap();
        assert_eq!((p.shape(), p.strides()), (&[4, 2, 3][..], &[1, 12, 4][..]));
        assert!(!p.is_contiguous());
        assert!(p.reshape(&[24]).is_err());
        let n = l.narrow(1, 1, 2).unwrap();
        assert_eq!(
            n.indices().collect::<Vec<_>>(),
            [4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23]
        );
        assert!(l.narrow(1, 2, 2).is_err());
        assert!(l.narrow(1, usize::MAX, 2).is_err());
        let b = Layout::contiguous(&[3, 1]).broadcast_to(&[2, 3, 2]).unwrap();
        assert_eq!(b.indices().collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
        assert_eq!(broadcast_shape("add", &[4, 1], &[3]).unwrap(), [4, 3]);
        assert!(broadcast_shape("add", &[4], &[3]).is_err());
        assert_eq!(Layout::contiguous(&[3, 0]).narrow(0, 2, 1).unwrap().offset(), 0);
        assert_eq!(Layout::contiguous(&[2, 0]).indices().count(), 0);
        assert_eq!(Layout::contiguous(&[]).indices().collect::<Vec<_>>(), [0]);
    }
}
