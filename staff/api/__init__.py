"""The staff API (contract §6): DRF views, one module per resource, their base, and the OpenAPI document."""
