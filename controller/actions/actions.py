"""The facade of the action layer: `Actions` is what the API (and through it command line and console) and the hub call.

Methods that people call take the `Actor` first, are authorised by its role and raise `ActionError`s (or `InputError`)
whose texts are for people. Every write is recorded in the audit log in the transaction that makes it.

| module | methods |
|---|---|
| `accounts` | login, session, logout |
| `inventory` | add_zone, add_router, add_edge, make_token, add_asset, add_service, add_listener, add_intercept |
| `views` | list_objects, show_object |
| `editing` | set_object, remove_object |
| `conduits` | allow, allow_dry_run, deny, why |
| `sovereignty` | kill, kill_session, restore, lift_kill, revoke |
| `records` | sessions, audit_tail, audit_search, audit_verify, audit_prove, audit_export |
| `status` | status |
| `enrolment` | redeem_token, renew, check_leaf |
| `recording` | record_events |
| `nodes` | authority, authority_version, fabric_map, routers_to_dial, assignments_for, grants_for, node_connected, … |
| `timed` | start, tick, stop |
| `core` | now, subscribe, credentials, signers, snapshot |
"""

from controller.actions.accounts import Accounts
from controller.actions.editing import Editing
from controller.actions.inventory import Inventory
from controller.actions.nodes import Nodes
from controller.actions.paths import Paths
from controller.actions.records import Records
from controller.actions.status import StatusReport
from controller.actions.timed import Timed


class Actions(Accounts, Inventory, Editing, Records, Paths, StatusReport, Nodes, Timed):
    """Every decision of the plant."""
