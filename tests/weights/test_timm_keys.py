"""State dicts in timm's naming have the keys and shapes of timm's own models."""

import hashlib

import pytest

import keras_metaformer as km

pytestmark = pytest.mark.backend_independent

# SHA-256 of the sorted lines "KEY SHAPE" of `timm.create_model(name).state_dict()` in
# timm 1.0.31. There such state dicts were also loaded strictly, and the logits
# compared: equal up to 2e-5 but for PoolFormer, which timm normalises after pooling.
TIMM_STATE_DICTS = {
    "PoolFormerS12": "be829f20e3e1f4e3e8afc248b333433be76c27760fa25ac57510e564ec91ed5f",
    "PoolFormerV2S12": (
        "a5eb2228b7ed395d18e499ab6c89c0b0f67354f44962bfc41aa67eaf6931683e"
    ),
    "ConvFormerS18": "44518db231649f19534d4f65db29a8848102ad1f3e39dfaae78988943b9caf20",
    "CAFormerS18": "7d233ad1faf8e3510549eb2548c2363856e07c29a39ff44dec909f5f527a7bec",
    "MLPMixerS32": "456088b45f5e27b7cf90236e69df1f4537de4cd87a6b6f533d531a4bf31dbf08",
    "ResMLP12": "21a9a175a78fe3e0062ee2ffe865124ec62a3c69ed1a4ffa6253512ea4333b10",
    "GMLPTi16": "11ec973b3900c7b5a7f1a44bd744f202f7ddfa181cf198b7f7ef77aad347e0b0",
}


@pytest.mark.parametrize("name", TIMM_STATE_DICTS)
def test_keys_and_shapes(name):
    state_dict = km.to_state_dict(getattr(km, name)(weights=None), "timm")
    lines = sorted(f"{key} {array.shape}" for key, array in state_dict.items())
    found = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert found == TIMM_STATE_DICTS[name], lines[:20]
