/* State at file scope, as no library may have it; what is constant or per thread is fine. */
static int hidden_counter = 7;
static _Thread_local int per_thread;
static const char *const names[] = {"a", "b"};
int visible_table[4];

const char *counter_next(void);

const char *counter_next(void)
{
    static unsigned calls;

    per_thread++;
    visible_table[calls++ % 4] = hidden_counter++;
    return names[calls % 2];
}
