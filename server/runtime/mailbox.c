#include "server/runtime/mailbox.h"
