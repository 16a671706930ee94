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

/// Quantises a linear layer's weight `[rows, columns]` (rows are output channels) to `[columns, rows]` bytes and one
/// scale per row: `weight = byte * scale`, within half a scale.
pub(crate) fn quantise(weight: &[f32], rows: usize, columns: usize) -> (Vec<i8>, Vec<f32>) {
    let levels = levels();
    let mut bytes = vec![0i8; rows * columns];
    let mut scales = Vec::with_capacity(rows);
    for (r, row) in weight.chunks_exact(columns).enumerate() {
        let top = row.iter().fold(1e-8f32, |m, w| m.max(w.abs()));
        let factor = levels / top;
        for (c, w) in row.iter().enumerate() {
            bytes[c * rows + r] = (w * factor).round().clamp(-levels, levels) as i8;
        }
        scales.push(top / levels);
    }
    (bytes, scales)
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
        let (zeros, scales) = super::quantise(&[0.0; 4], 2, 2);
        assert!(zeros.iter().all(|b| *b == 0) && scales.iter().all(|s| s.is_finite()));
    }
}
