"""HTTP on top of the actions: routes, problem documents, limits before authentication, the OpenAPI document."""
