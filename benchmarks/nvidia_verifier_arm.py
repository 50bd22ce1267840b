"""The other arm of `gpu_evidence`: NVIDIA's own verifier over the same evidence, in an environment of its own.

Run by the interpreter of an environment in which the package ``nv-local-gpu-verifier`` is installed; it
imports nothing of this project. Argument: a folder with what `gpu_evidence` wrote. No network: the OCSP
responses come from the folder, and are picked by serial number as a responder would. Prints JSON.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any


def main(folder: Path, rounds: int) -> None:
    """Judge the evidence ``rounds`` times and print the verdicts and the seconds each took."""
    from cryptography.x509 import ocsp
    from verifier import cc_admin  # type: ignore[import-not-found]
    from verifier.cc_admin_utils import CcAdminUtils  # type: ignore[import-not-found]
    from verifier.config import BaseSettings, HopperSettings  # type: ignore[import-not-found]
    from verifier.nvml.nvmlHandlerTest import NvmlHandlerTest  # type: ignore[import-not-found]

    facts = json.loads((folder / "facts.json").read_text())
    for settings in (BaseSettings, HopperSettings):
        settings.RIM_ROOT_CERT = str(folder / "rim_root.pem")
        settings.DEVICE_ROOT_CERT = str(folder / "device_root.pem")
        settings.DRIVER_RIM_PATH = str(folder / "driver_rim.xml")
        settings.VBIOS_RIM_PATH = str(folder / "vbios_rim.xml")
    HopperSettings.ATTESTATION_REPORT_PATH = str(folder / "report.hex")
    HopperSettings.GPU_ATTESTATION_CERTIFICATES_PATH = str(folder / "chain.pem")
    responses = {}
    for path in folder.glob("*.ocsp"):
        response = ocsp.load_der_ocsp_response(path.read_bytes())
        responses[response.serial_number] = response

    def answer(request: bytes) -> Any:
        return responses[ocsp.load_der_ocsp_request(request).serial_number]

    CcAdminUtils.send_ocsp_request = staticmethod(answer)
    arguments = {
        "allow_hold_cert": False,
        "ocsp_nonce_disabled": True,
        "rim_service_url": None,
        "ocsp_url": None,
        "service_key": None,
        "verbose": False,
        "driver_rim": str(folder / "driver_rim.xml"),
        "vbios_rim": str(folder / "vbios_rim.xml"),
        "test_no_gpu": True,
        "user_mode": True,
        "claims_version": "3.0",
    }
    seconds, verdicts = [], []
    for _ in range(rounds):
        device = NvmlHandlerTest(settings=BaseSettings)
        device.DriverVersion, device.VbiosVersion = facts["driver"], facts["vbios"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            begin = time.perf_counter()
            result = cc_admin.attest(dict(arguments), facts["nonce"], [device])
            seconds.append(time.perf_counter() - begin)
        verdicts.append(bool(result and result[0]))
    print(json.dumps({"accepted": all(verdicts), "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
