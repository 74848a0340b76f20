"""What is read of the processor."""

import pytest

from keras_metaformer_lite import processor

pytestmark = pytest.mark.backend_independent

AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx avx2 avx512f\n"
INTEL = "vendor_id\t: GenuineIntel\nvmx flags\t: avx2\nflags\t\t: fpu sse2 avx\n"


@pytest.mark.parametrize(
    ("machine", "information", "vendor", "gains"),
    [
        ("x86_64", f"{AMD}\n{INTEL}", "AuthenticAMD", True),
        ("x86_64", f"{INTEL}\n{AMD}", "GenuineIntel", False),
        ("aarch64", "processor\t: 0\nFeatures\t: fp asimd\n", "", False),
        ("aarch64", AMD, "AuthenticAMD", False),
        ("x86_64", None, "", False),
    ],
)
def test_what_it_is(machine, information, vendor, gains, monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    if information is not None:
        path.write_text(information)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "Path", lambda _: path)
    processor._information.cache_clear()
    try:
        assert processor.vendor() == vendor
        assert processor.gains_from_one_dnn() == gains
    finally:
        processor._information.cache_clear()
