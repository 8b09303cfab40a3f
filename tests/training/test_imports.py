import subprocess
import sys


def test_importing_the_package_registers_its_environments_and_loads_no_simulator() -> None:
    script = (
        "import sys, gymnasium, thetaprime.training\n"
        "print(sorted(name for name in gymnasium.registry if name.startswith('thetaprime/')))\n"
        "print([name for name in ('torch', 'mujoco') if name in sys.modules])\n"
        "print(gymnasium.make('thetaprime/PointNavigation-v0', goal=(0.3, -0.2)).reset(seed=0)[0].tolist())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names = [
        *("AntDirection", "AntLeg", "AntVelocity", "HalfCheetahBody", "HalfCheetahDirection", "HalfCheetahVelocity"),
        *("PointNavigation", "WalkerBody"),
    ]
    assert found.stdout.splitlines() == [str([f"thetaprime/{name}-v0" for name in names]), "[]", "[0.0, 0.0]"]
