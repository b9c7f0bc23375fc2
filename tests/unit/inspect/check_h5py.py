"""Opens a checkpoint of sample_state(12) in h5py and checks names, shapes, attributes and values."""

import hashlib
import json
import sys

try:
    import h5py
    import numpy as np
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)

with h5py.File(sys.argv[1], "r") as f:
    assert sorted(f) == ["adapter", "counters", "identity", "optimizer", "run.yaml"], list(f)
    assert f.attrs["format"].decode() == "qshard-checkpoint" and f.attrs["version"] == 1
    assert f.attrs["step"] == 12 and f.attrs["data_step"] == 13 and f.attrs["epoch"] == 3.0
    assert f.attrs["seed"] == 0xFEDCBA9876543210
    assert f["identity"].attrs["cpu_isa"].decode() == "avx2"
    assert f["run.yaml"][0].decode() == "model:\n  base: été.gguf\n"
    assert json.loads(f["adapter/adapter_config.json"][0])["r"] == 2

    values = f["adapter/values"]
    assert values.dtype == np.float32 and values.fletcher32 and values.compression is None
    assert hashlib.sha256(values[:].tobytes()).hexdigest() == f["adapter"].attrs["sha256"].decode()
    tensors = {}
    for row in f["adapter/index"]:
        shape = row["shape"][: row["rank"]]
        assert np.prod(shape) == row["count"]
        tensors[row["name"].decode()] = values[row["offset"] : row["offset"] + row["count"]].reshape(shape)
    assert len(tensors) == 8
    a = tensors["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"]
    assert a.shape == (2, 8) and np.abs(a).max() <= 0.5
    assert sum(t.size for t in tensors.values()) == values.size
    assert f["optimizer"].attrs["name"].decode() == "adamw"
    assert f["optimizer/exp_avg"].shape == values.shape == f["optimizer/exp_avg_sq"].shape
    updates = np.array([np.linalg.norm(t.ravel() - 0.125) for t in tensors.values()])
    assert np.allclose(f["adapter/index"]["update_norm"], updates, rtol=1e-5)
print("ok")
