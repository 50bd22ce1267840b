"""Google Compute Engine's vTPM: its CAs, and what its AK certificates say of the instance.

Google's CAs certify the AK of every instance of every customer, so trust in them means nothing before the
policy names projects or instances.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .. import der
from ..certificate import Certificate
from ..errors import EndorsementMismatch, PolicyRejected

GCP_ROOTS_SHA256: Final = frozenset(
    bytes.fromhex(digest)
    for digest in (
        # SHA-256 of the DER of Google's "EK/AK CA Root" and of "tpm_ek_v1_cloud_host_root" (pki.goog).
        "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2",
        "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf",
    )
)
OID_INSTANCE: Final = "1.3.6.1.4.1.11129.2.1.21"


@dataclass(frozen=True, slots=True)
class GcpInstance:
    """The instance that an AK certificate is for. ``production``: its vTPM is not of a debugging kind.

    ``properties`` are the security properties by the number that Google's extension gives them.
    """

    zone: str
    project_number: int
    project_id: str
    instance_id: int
    instance_name: str
    properties: Mapping[int, int | bool]

    @property
    def production(self) -> bool:
        """Whether Google says that the instance runs in production."""
        return self.properties.get(1) is True


@dataclass(frozen=True, slots=True)
class GcpPolicy:
    """Instances accepted: all that are named must match. None of ``projects`` and ``instance_ids``: none."""

    projects: frozenset[str] | None = None
    zones: frozenset[str] | None = None
    instance_ids: frozenset[str] | None = None
    require_production: bool = True

    @property
    def names_instances(self) -> bool:
        """Whether the policy says whose instances it means; Google's CAs are trusted only then."""
        return self.projects is not None or self.instance_ids is not None


def read_instance(certificate: Certificate) -> GcpInstance:
    """What Google's extension says of the instance. Raises EndorsementMismatch (``cert_extension``)."""
    value = next((e.value for e in certificate.extensions if e.oid == OID_INSTANCE), None)
    if value is None:
        raise EndorsementMismatch(
            code="cert_extension", expected=OID_INSTANCE, detail="the certificate names no instance"
        )
    try:
        return _read(value)
    except der.DerError as error:
        raise EndorsementMismatch(code="cert_extension", found=OID_INSTANCE, detail=error.detail) from None


def check_instance(instance: GcpInstance, policy: GcpPolicy) -> None:
    """Check that the policy accepts the instance. Raises PolicyRejected (``gcp_instance``)."""
    for name, accepted, found in (
        ("project", policy.projects, instance.project_id),
        ("zone", policy.zones, instance.zone),
        ("instance", policy.instance_ids, str(instance.instance_id)),
    ):
        if accepted is not None and found not in accepted:
            raise PolicyRejected(
                code="gcp_instance", expected=", ".join(sorted(accepted)), found=found, detail=name
            )
    if not policy.names_instances:
        raise PolicyRejected(code="gcp_instance", detail="the policy names no project and no instance")
    if policy.require_production and not instance.production:
        raise PolicyRejected(code="gcp_instance", detail="not an instance in production")


def _read(value: bytes) -> GcpInstance:
    reader = der.Reader(value)
    fields = reader.inside()
    reader.end()
    zone, project_number, project_id = _text(fields), fields.integer(), _text(fields)
    instance_id, instance_name = fields.integer(), _text(fields)
    properties: dict[int, int | bool] = {}
    if fields.more:
        wrapper = fields.inside(der.context(0))
        listed = wrapper.inside()
        wrapper.end()
        for element in listed.each():
            number = element.tag ^ der.context(0)
            content = der.Reader(element.content)
            if number > 30 or number in properties:
                raise der.DerError("a security property out of place")
            properties[number] = content.boolean() if content.next_is(der.BOOLEAN) else content.integer()
            content.end()
    fields.end()
    return GcpInstance(zone, project_number, project_id, instance_id, instance_name, properties)


def _text(fields: der.Reader) -> str:
    try:
        return fields.element(der.UTF8_STRING).content.decode("utf-8")
    except UnicodeDecodeError:
        raise der.DerError("not UTF-8") from None
