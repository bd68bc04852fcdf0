"""`storage-ledger status-service`."""

from __future__ import annotations

from typing import Annotated

import typer


def status_service(
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="STATUS_SERVICE_HOST", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", envvar="STATUS_SERVICE_PORT", min=0, max=65535, metavar="PORT")
    ] = 8003,
) -> None:
    """Run the reference Status Service.

    Keeps the latest status of each study in Redis (REDIS_URL), as `status:<study_id>`. For demos, tests, and pipelines
    without one. It has no login: keep it on a private network.
    """
    from storage_ledger.demo import status_service as service
    from storage_ledger.settings import Settings
    from storage_ledger.system import logs

    settings = Settings.load()
    logs.configure(settings.log_level, environment=settings.environment)
    service.run(settings.redis_address, host, port)
