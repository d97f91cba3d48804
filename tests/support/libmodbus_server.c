/* A Modbus server on libmodbus. It prints what its registers hold, one value a line, before it serves:

       table address type word_order byte_order value

   Use: program tcp PORT                        units 1 to 5, one connection at a time
        program rtu DEVICE BAUD PARITY UNIT     one unit of a serial line

   Unit 1    holding 0-99 and input 0-99 hold one value of each type in each order; holding 100-109 do not exist,
             so that libmodbus refuses any request that touches them; holding 110-199 hold their own address;
             holding 98 counts the answers of this unit.
   Unit 2    the same with other values.
   Unit 3    answers with exception 4 (device failure).
   Unit 4    answers with exception 11 (behind a gateway that has no answer).
   Others    do not answer. */

#include <errno.h>
#include <modbus/modbus.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOW = 100, HIGH_FIRST = 110, HIGH = 90, BITS = 50, ANSWERS = 98, UNITS = 2 };
enum { BIG_BIG, LITTLE_BIG, BIG_LITTLE, LITTLE_LITTLE, ORDERS };

static const char *const order_names[ORDERS] = {"big big", "little big", "big little", "little little"};

struct unit {
    modbus_mapping_t *low, *high;
};

static struct unit units[UNITS];

/* From the order that libmodbus sets to another: words first, then the bytes within them. */
static void arrange(uint16_t *registers, int count, int order)
{
    uint16_t words[4];
    for (int n = 0; n < count; n++)
        words[n] = registers[order == LITTLE_BIG || order == LITTLE_LITTLE ? count - 1 - n : n];
    for (int n = 0; n < count; n++)
        registers[n] = order >= BIG_LITTLE ? (uint16_t) (words[n] << 8 | words[n] >> 8) : words[n];
}

static void holds(const char *table, int address, const char *type, int order)
{
    printf("holds %s %d %s %s ", table, address, type, order_names[order]);
}

/* Fills the first registers of a table; `seed` makes tables differ. Returns how many were filled. */
static int fill(uint16_t *to, const char *table, int seed)
{
    int at = 0;
    for (int order = 0; order < ORDERS; order++) {
        float small = (float) (seed * 1.25 + 0.1) * (order % 2 ? -1 : 1);
        double fine = seed * -1234567.000123 - order;
        int32_t whole = -70000 * (seed + order);
        uint32_t count = 4000000000u + seed * 10 + order;
        int64_t wide = -(INT64_C(1) << 40) - seed * 100 - order;
        uint64_t total = (UINT64_C(1) << 62) + 12345 * seed + order;
        int64_t bits;

        switch (order) {
        case BIG_BIG: modbus_set_float_abcd(small, to + at); break;
        case LITTLE_BIG: modbus_set_float_cdab(small, to + at); break;
        case BIG_LITTLE: modbus_set_float_badc(small, to + at); break;
        default: modbus_set_float_dcba(small, to + at);
        }
        holds(table, at, "float32", order);
        printf("%.9g\n", small);
        at += 2;

        MODBUS_SET_INT32_TO_INT16(to, at, whole);
        arrange(to + at, 2, order);
        holds(table, at, "int32", order);
        printf("%ld\n", (long) whole);
        at += 2;

        MODBUS_SET_INT32_TO_INT16(to, at, count);
        arrange(to + at, 2, order);
        holds(table, at, "uint32", order);
        printf("%lu\n", (unsigned long) count);
        at += 2;

        memcpy(&bits, &fine, sizeof bits);
        MODBUS_SET_INT64_TO_INT16(to, at, bits);
        arrange(to + at, 4, order);
        holds(table, at, "float64", order);
        printf("%.17g\n", fine);
        at += 4;

        MODBUS_SET_INT64_TO_INT16(to, at, wide);
        arrange(to + at, 4, order);
        holds(table, at, "int64", order);
        printf("%lld\n", (long long) wide);
        at += 4;

        MODBUS_SET_INT64_TO_INT16(to, at, total);
        arrange(to + at, 4, order);
        holds(table, at, "uint64", order);
        printf("%llu\n", (unsigned long long) total);
        at += 4;

        if (order == BIG_BIG || order == BIG_LITTLE) {
            int16_t cold = -300 - seed;
            uint16_t hot = 65000 - seed;
            to[at] = (uint16_t) cold;
            arrange(to + at, 1, order);
            holds(table, at++, "int16", order);
            printf("%d\n", cold);
            to[at] = hot;
            arrange(to + at, 1, order);
            holds(table, at++, "uint16", order);
            printf("%u\n", hot);
        }
    }
    to[at] = 0x1234;
    to[at + 1] = 0x5675 + seed;
    holds(table, at, "bcd32", BIG_BIG);
    printf("%d\n", 12345675 + seed);
    to[at + 2] = 42;
    to[at + 3] = 9000 + seed;
    holds(table, at + 2, "mod10k32", BIG_BIG);
    printf("%d\n", 429000 + seed);
    return at + 4;
}

static modbus_mapping_t *made(int first, int registers, int bits)
{
    modbus_mapping_t *mapping = modbus_mapping_new_start_address(0, bits, 0, bits, first, registers, 0, registers);
    if (mapping == NULL) {
        fprintf(stderr, "no memory: %s\n", modbus_strerror(errno));
        exit(1);
    }
    return mapping;
}

static void make_unit(struct unit *unit, int seed)
{
    unit->low = made(0, LOW, BITS);
    unit->high = made(HIGH_FIRST, HIGH, 1);
    if (fill(unit->low->tab_registers, "holding", seed) > ANSWERS || fill(unit->low->tab_input_registers, "input", -seed) > LOW) {
        fprintf(stderr, "the values do not fit\n");
        exit(1);
    }
    for (int n = 0; n < HIGH; n++)
        unit->high->tab_registers[n] = HIGH_FIRST + n;
    for (int n = 0; n < BITS; n++) {
        unit->low->tab_bits[n] = n * (seed + 1) % 3 == 0;
        holds("coil", n, "bool", BIG_BIG);
        printf("%d\n", unit->low->tab_bits[n]);
        unit->low->tab_input_bits[n] = n % (seed + 4) == 0;
        holds("discrete", n, "bool", BIG_BIG);
        printf("%d\n", unit->low->tab_input_bits[n]);
    }
}

/* Answers one request; the end of the mapping that it begins in decides about holes. */
static void answer(modbus_t *context, const uint8_t *query, int size, int number)
{
    int head = modbus_get_header_length(context);
    int function = query[head], address = query[head + 1] << 8 | query[head + 2];

    if (number == 3) {
        modbus_reply_exception(context, query, MODBUS_EXCEPTION_SLAVE_OR_SERVER_FAILURE);
    } else if (number == 4) {
        modbus_reply_exception(context, query, MODBUS_EXCEPTION_GATEWAY_TARGET);
    } else if (number >= 1 && number <= UNITS) {
        struct unit *unit = &units[number - 1];
        int high = function == MODBUS_FC_READ_HOLDING_REGISTERS && address >= HIGH_FIRST;
        unit->low->tab_registers[ANSWERS]++;
        modbus_reply(context, query, size, high ? unit->high : unit->low);
    }
}

static int serve_tcp(int port)
{
    modbus_t *context = modbus_new_tcp("127.0.0.1", port);
    int listening = context ? modbus_tcp_listen(context, 5) : -1;
    if (listening < 0) {
        fprintf(stderr, "port %d: %s\n", port, modbus_strerror(errno));
        return 1;
    }
    puts("ready");
    while (modbus_tcp_accept(context, &listening) >= 0) {
        uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
        int size;
        puts("connected");
        while ((size = modbus_receive(context, query)) >= 0)
            if (size > 0)
                answer(context, query, size, query[modbus_get_header_length(context) - 1]);
        modbus_close(context);
    }
    fprintf(stderr, "accept: %s\n", modbus_strerror(errno));
    return 1;
}

static int serve_rtu(const char *device, int baud, char parity, int number)
{
    modbus_t *context = modbus_new_rtu(device, baud, parity, 8, 1);
    uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH];
    if (context == NULL || modbus_set_slave(context, number) < 0 || modbus_connect(context) < 0) {
        fprintf(stderr, "%s: %s\n", device, modbus_strerror(errno));
        return 1;
    }
    puts("ready");
    for (;;) {
        int size = modbus_receive(context, query);
        if (size > 0)
            answer(context, query, size, number);
        else if (size < 0 && errno != EMBBADCRC && errno != EMBBADDATA && errno != ETIMEDOUT) {
            fprintf(stderr, "%s: %s\n", device, modbus_strerror(errno));
            return 1;
        }
    }
}

int main(int count, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    int tcp = count == 3 && strcmp(words[1], "tcp") == 0;
    if (!tcp && !(count == 6 && strcmp(words[1], "rtu") == 0)) {
        fprintf(stderr, "use: %s tcp PORT | rtu DEVICE BAUD PARITY UNIT\n", words[0]);
        return 2;
    }
    for (int number = 1; number <= UNITS; number++) {
        printf("unit %d\n", number);
        make_unit(&units[number - 1], number);
    }
    if (tcp)
        return serve_tcp(atoi(words[2]));
    return serve_rtu(words[2], atoi(words[3]), words[4][0], atoi(words[5]));
}
