"The Haar transform and its gradient against another library's, PyTorch-Wavelet-Toolbox (which the paper's pseudo-code names)."
import ptwt, pytest, torch
from litevae_diffae.litevae.wavelets import wavedec2, waverec2

def flat(coeffs): return [coeffs[0], *(band for level in coeffs[1:] for band in level)]

@pytest.mark.parametrize("levels", [1, 3])
def test_haar_equals_ptwt(levels):
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64, requires_grad=True)
    ours, theirs = wavedec2(x, levels=levels), ptwt.wavedec2(x, "haar", level=levels, mode="symmetric")
    weights = [torch.randn_like(b) for b in flat(ours)]
    for a, b in zip(flat(ours), flat(theirs), strict=True): torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    grads = [torch.autograd.grad(flat(c), x, weights)[0] for c in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)
    torch.testing.assert_close(waverec2(theirs), x, rtol=0, atol=1e-12)
