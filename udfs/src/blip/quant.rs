//! Quantisation of weights to int8.

/// Maximum magnitude of a quantised weight.
///
/// Without VNNI, x86's byte product adds two products in 16 bits and saturates: 255 x 127 x 2 overflows, 255 x 64 x 2
/// does not. (Observed: ONNX Runtime's MatMulInteger on AVX2 returned 8160 instead of 1032256.) Weights take seven bits
/// there.
fn levels() -> f32 {
    #[cfg(target_arch = "x86_64")]
    if !(is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni")) {
        return 64.0;
    }
    127.0
}

/// Rows and columns of the tiles in which a matrix is transposed: their cache lines fit into the first-level cache.
const TILE: usize = 64;

/// Quantises a linear layer's weight `[rows, columns]` (rows are output channels) to `[columns, rows]` bytes and one
/// scale per row: `weight = byte * scale`, within half a scale.
pub(crate) fn quantise(weight: &[f32], rows: usize, columns: usize) -> (Vec<i8>, Vec<f32>) {
    let levels = levels();
    let mut bytes = vec![0i8; rows * columns];
    let mut scales = Vec::with_capacity(rows);
    let mut block = vec![0i8; TILE * columns];
    for (first, weight) in weight.chunks(TILE * columns).enumerate().map(|(n, weight)| (n * TILE, weight)) {
        for (row, to) in weight.chunks_exact(columns).zip(block.chunks_exact_mut(columns)) {
            let top = row.iter().fold(1e-8f32, |m, w| m.max(w.abs()));
            quantise_row(row, levels / top, to);
            scales.push(top / levels);
        }
        let count = weight.len() / columns;
        for start in (0..columns).step_by(TILE) {
            for column in start..columns.min(start + TILE) {
                let to = &mut bytes[column * rows + first..][..count];
                to.iter_mut().enumerate().for_each(|(row, to)| *to = block[row * columns + column]);
            }
        }
    }
    (bytes, scales)
}

/// Rounds `row * factor`, at most 127 in magnitude, to the nearest integers.
fn quantise_row(row: &[f32], factor: f32, to: &mut [i8]) {
    /// 1.5 * 2^23: added to a number of that magnitude, it leaves the rounded number in the sum's lowest bits. Unlike
    /// `round`, this is two instructions on every processor.
    const ROUND: f32 = 12_582_912.0;
    for (w, to) in row.iter().zip(to) {
        *to = (w * factor + ROUND).to_bits() as i8;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantised_weights_are_within_half_a_step() {
        let weight: Vec<f32> = (0..12).map(|i| (i as f32 - 5.5) * 0.37).collect();
        let (bytes, scales) = super::quantise(&weight, 3, 4);
        for r in 0..3 {
            for c in 0..4 {
                let back = bytes[c * 3 + r] as f32 * scales[r];
                assert!((back - weight[r * 4 + c]).abs() <= scales[r] * 0.5001, "{back} for {}", weight[r * 4 + c]);
            }
        }
        // More rows and columns than a tile has.
        let (rows, columns) = (70, 131);
        let weight: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect();
        let (bytes, scales) = super::quantise(&weight, rows, columns);
        for (i, w) in weight.iter().enumerate() {
            let (r, c) = (i / columns, i % columns);
            assert!(
                (f32::from(bytes[c * rows + r]) * scales[r] - w).abs() <= scales[r] * 0.5001,
                "row {r}, column {c}"
            );
        }
        let (zeros, scales) = super::quantise(&[0.0; 4], 2, 2);
        assert!(zeros.iter().all(|b| *b == 0) && scales.iter().all(|s| s.is_finite()));
    }
}
