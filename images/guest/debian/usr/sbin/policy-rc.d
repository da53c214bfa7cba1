#!/bin/sh
# No service is started while the image is made.
exit 101
