//! `ldmatrix` and `stmatrix`: 8×8 matrices of 16-bit elements between shared memory and fragments.
//!
//! Lanes 8i…8i+7 hold the addresses of matrix i's eight rows of 16 bytes. Without `.trans` lane L gets
//! columns 2(L mod 4) and 2(L mod 4)+1 of row L/4; with `.trans` it gets rows 2(L mod 4) and
//! 2(L mod 4)+1 of column L/4 (PTX ISA, `ldmatrix`, figures of the thread layout).

/// One row of a matrix: eight 16-bit elements, two a word, the first in the lower half.
pub type Row = [u32; 4];

/// From the rows in memory (row r of matrix i is `rows[8 i + r]`) to every lane's registers: the
/// answer's `[i][lane]` is register i. `matrices` is 1, 2 or 4; further registers are 0.
pub fn distribute(rows: &[Row; 32], matrices: usize, transposed: bool) -> [[u32; 32]; 4] {
    let mut out = [[0; 32]; 4];
    for (matrix, registers) in out.iter_mut().enumerate().take(matrices) {
        let rows = &rows[8 * matrix..8 * matrix + 8];
        for (lane, register) in registers.iter_mut().enumerate() {
            *register = if transposed {
                let column = lane / 4;
                let element = |row: usize| rows[row][column / 2] >> (16 * (column % 2)) & 0xffff;
                let first = 2 * (lane % 4);
                element(first) | element(first + 1) << 16
            } else {
                rows[lane / 4][lane % 4]
            };
        }
    }
    out
}

/// The reverse, for `stmatrix`: the rows that the lanes' registers make up.
pub fn collect(registers: &[[u32; 32]; 4], matrices: usize, transposed: bool) -> [Row; 32] {
    let mut out = [[0; 4]; 32];
    for (matrix, registers) in registers.iter().enumerate().take(matrices) {
        let rows = &mut out[8 * matrix..8 * matrix + 8];
        for (lane, &register) in registers.iter().enumerate() {
            if transposed {
                let column = lane / 4;
                let first = 2 * (lane % 4);
                for (row, half) in [(first, register & 0xffff), (first + 1, register >> 16)] {
                    rows[row][column / 2] |= half << (16 * (column % 2));
                }
            } else {
                rows[lane / 4][lane % 4] = register;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element (matrix, row, column) is the number 64 matrix + 8 row + column.
    fn numbered() -> [Row; 32] {
        let mut rows = [[0; 4]; 32];
        for (r, row) in rows.iter_mut().enumerate() {
            for (pair, word) in row.iter_mut().enumerate() {
                let first = (8 * r + 2 * pair) as u32;
                *word = first | (first + 1) << 16;
            }
        }
        rows
    }

    #[test]
    fn plain_and_transposed_ownership() {
        let plain = distribute(&numbered(), 4, false);
        let across = distribute(&numbered(), 4, true);
        for matrix in 0..4u32 {
            for lane in 0..32u32 {
                let (group, member) = (lane / 4, lane % 4);
                let base = 64 * matrix;
                let want = base + 8 * group + 2 * member;
                assert_eq!(plain[matrix as usize][lane as usize], want | (want + 1) << 16);
                let first = base + 8 * (2 * member) + group;
                assert_eq!(across[matrix as usize][lane as usize], first | (first + 8) << 16);
            }
        }
        let two = distribute(&numbered(), 2, false);
        assert_eq!((two[1], two[2]), (plain[1], [0; 32]));
    }

    #[test]
    fn storing_undoes_loading() {
        for transposed in [false, true] {
            let registers = distribute(&numbered(), 4, transposed);
            assert_eq!(collect(&registers, 4, transposed), numbered());
        }
    }
}
