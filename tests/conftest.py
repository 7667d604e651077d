"""Eight fake CPU devices, one compilation cache, and where the shared data lies."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

FLAGS = [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    # On a busy machine a part of a collective may come late: after 40 s the process would die.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
]
if "xla_backend_optimization_level" not in FLAGS[0]:
    # The programs of tests are small: nearly all of their time is that of compiling them.
    FLAGS.append("--xla_backend_optimization_level=0")
    if importlib.metadata.version("jax").startswith("0.10."):  # later ones know no such flag
        FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FLAGS).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
# XLA's pool has a thread for each fake device; independent collectives of one program then wait for
# each other now and then, each with a part of the threads. With more threads they cannot.
os.environ["NPROC"] = "32"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "bert-to-gpt3-test-xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

# A tracer leaves many objects that live: looking through them took a tenth of the time and more.
gc.set_threshold(200_000)

ROOT = pathlib.Path(__file__).resolve().parent.parent


def pytest_configure(config):
    """Grain's worker processes ask for parsed flags."""
    del config
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="module", autouse=True)
def _forget():
    """Programs of another file, which would add up to 6 GiB, are read from the cache again."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The developers' folder of real data, which lies beside the repository; skips without it."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip("needs the developers' shared data")
    return path


@pytest.fixture(scope="session")
def devices() -> list[jax.Device]:
    """Eight CPU devices."""
    assert jax.device_count() == 8, "run pytest from the repository root, so that conftest applies"
    return jax.devices()
