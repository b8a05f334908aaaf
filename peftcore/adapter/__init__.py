"""One adapter's life: plan, attach, switch, route, merge, save, detach."""
