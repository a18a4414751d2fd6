"""Drives what stands for Azure Resource Manager with Azure's own clients; says `done` at the end."""

import sys
import time
import urllib.request

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

URL, SUBSCRIPTION, TOKEN, LOCATION, BLOB, ACCOUNT, SUBNET = sys.argv[1:]
GROUP = "dr-group"


class Given:
    def get_token(self, *scopes, **_):
        return AccessToken(TOKEN, int(time.time()) + 3600)


def client(kind):
    return kind(
        Given(),
        SUBSCRIPTION,
        base_url=URL,
        credential_scopes=["https://management.azure.com/.default"],
        polling_interval=0,
    )


compute, network = client(ComputeManagementClient), client(NetworkManagementClient)
PLAIN = {"enforce_https": False, "polling_interval": 0}


def disk(name, source, os):
    properties = {
        "creationData": {"createOption": "Import", "sourceUri": source, "storageAccountId": ACCOUNT},
    }
    if os:
        properties |= {"osType": "Windows", "hyperVGeneration": "V2"}
    body = {"location": LOCATION, "sku": {"name": "Premium_LRS"}, "properties": properties}
    return compute.disks.begin_create_or_update(GROUP, name, body, **PLAIN)


made = disk("sdk-os", BLOB, True).result()
assert made.disk_state == "Unattached" and made.provisioning_state == "Succeeded", made
kept = disk("sdk-kept", BLOB, False).result()
assert kept.disk_size_bytes == 2 << 20, kept.disk_size_bytes

try:
    disk("sdk-bad", BLOB + "-gone", True).result()
    raise AssertionError("a blob that is not there was imported")
except HttpResponseError as error:
    assert "was not found" in str(error), error
compute.disks.begin_delete(GROUP, "sdk-bad", **PLAIN).result()

snapshot = compute.snapshots.begin_create_or_update(
    GROUP,
    "sdk-s0",
    {
        "location": LOCATION,
        "properties": {"incremental": True, "creationData": {"createOption": "Copy", "sourceResourceId": kept.id}},
    },
    **PLAIN,
).result()
assert snapshot.incremental_snapshot_family_id == kept.unique_id
access = compute.snapshots.begin_grant_access(
    GROUP, "sdk-s0", {"access": "Read", "durationInSeconds": 600}, **PLAIN
).result()
sas = access.access_sas
request = urllib.request.Request(sas, headers={"x-ms-range": f"bytes={2 << 20}-{(2 << 20) + 511}"})
with urllib.request.urlopen(request) as answer:
    assert answer.read().startswith(b"conectix")
compute.snapshots.begin_revoke_access(GROUP, "sdk-s0", **PLAIN).result()

nic = network.network_interfaces.begin_create_or_update(
    GROUP,
    "sdk-nic",
    {
        "location": LOCATION,
        "properties": {
            "ipConfigurations": [{"name": "ipconfig1", "properties": {"primary": True, "subnet": {"id": SUBNET}}}]
        },
    },
    **PLAIN,
).result()
assert nic.provisioning_state == "Succeeded", nic

vm = compute.virtual_machines.begin_create_or_update(
    GROUP,
    "sdk-vm",
    {
        "location": LOCATION,
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D2s_v5"},
            "storageProfile": {
                "osDisk": {"osType": "Windows", "createOption": "Attach", "managedDisk": {"id": made.id}},
                "dataDisks": [{"lun": 0, "createOption": "Attach", "managedDisk": {"id": kept.id}}],
            },
            "networkProfile": {"networkInterfaces": [{"id": nic.id}]},
        },
    },
    **PLAIN,
).result()
assert vm.provisioning_state == "Succeeded", vm


def power():
    view = compute.virtual_machines.instance_view(GROUP, "sdk-vm", enforce_https=False)
    return [status.code for status in view.statuses if status.code.startswith("PowerState/")]


assert power() == ["PowerState/running"], power()
compute.virtual_machines.begin_power_off(GROUP, "sdk-vm", **PLAIN).result()
assert power() == ["PowerState/stopped"], power()
compute.virtual_machines.begin_start(GROUP, "sdk-vm", **PLAIN).result()
assert power() == ["PowerState/running"], power()
compute.virtual_machines.begin_deallocate(GROUP, "sdk-vm", **PLAIN).result()
assert power() == ["PowerState/deallocated"], power()

try:
    compute.disks.begin_delete(GROUP, "sdk-os", **PLAIN).result()
    raise AssertionError("a disk that is attached was deleted")
except HttpResponseError as error:
    assert error.status_code == 409, error

compute.virtual_machines.begin_delete(GROUP, "sdk-vm", force_deletion=True, **PLAIN).result()
network.network_interfaces.begin_delete(GROUP, "sdk-nic", **PLAIN).result()
compute.snapshots.begin_delete(GROUP, "sdk-s0", **PLAIN).result()
compute.disks.begin_delete(GROUP, "sdk-os", **PLAIN).result()
for look in (
    lambda: compute.virtual_machines.get(GROUP, "sdk-vm", enforce_https=False),
    lambda: compute.disks.get(GROUP, "sdk-os", enforce_https=False),
    lambda: network.network_interfaces.get(GROUP, "sdk-nic", enforce_https=False),
):
    try:
        look()
        raise AssertionError("it is still there")
    except ResourceNotFoundError:
        pass
print("done")
