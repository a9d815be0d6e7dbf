"""The controller's side towards nodes: links to routers, `_control` circuits, the authority on its way to everybody."""
