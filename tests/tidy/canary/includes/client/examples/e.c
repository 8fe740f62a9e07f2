#include <kluis.h>
#include <stdio.h>
#include "common/buf.h"
