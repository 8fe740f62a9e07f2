/* What server/core must not do: look at a clock. Linked into nothing. */
#include "common/buf.h"

#include <time.h>

time_t impure(struct kl_buf *b);

time_t impure(struct kl_buf *b)
{
    kl_buf_wipe(b);
    return time(NULL);
}
