"""The yardstick that is no DETR: proposals of anchor boxes, and a look at each of them."""
