/* The native decoder of market data: Binance lines to packed records, market frames to messages. Module hftd.native._market.
 *
 * Why: daemons are woken cold, some hundred times a second. hftd/venues/binance.py and hftd/wire/market.py then take up to five times as long as when
 * hot, because of all the memory that the interpreter touches. This file touches the line, the result, and a few
 * pages of itself (ADR 0023).
 *
 * What it promises:
 *  - The Python code is its twin and sole arbiter. A line or frame of the plain, expected shape gives exactly what Python gives; for anything else
 *    the answer is None and the caller asks Python, which takes it or says why not. Never a third thing.
 *  - It never raises for what is in the bytes (only for wrong use, and when memory is out), and reads no byte outside of them.
 *  - It keeps nothing between calls.
 *
 * "Plain" is narrower than JSON: no white space, strings of printable ASCII without escapes, integers of 1 to 18 digits, no key twice. Keys may come
 * in any order, but bids before asks; a key that is not known is skipped when its value is such a string or integer, true or false.
 *
 * Reading order: the cursor, JSON values, the members of each kind of line, a line, messages of a frame, the module.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "records are little-endian and are copied as they lie in memory"
#endif

/* --- the wire, as in hftd/wire/market.py: tests hold the two together ------------------------------------------------- */

typedef struct {
    uint16_t type, version;
    uint32_t messages;
    uint64_t sequence, session;
} Frame;

typedef struct {
    uint16_t instrument;
    uint8_t kind, flags;
    uint32_t levels, bids, payload;
    int64_t receive_ns, event_ns, origin_ns;
    uint64_t first, last, previous, trade_or_bar;
} Record;

typedef struct {
    int64_t price, quantity;
} Level;

_Static_assert(sizeof(Frame) == 24 && sizeof(Record) == 72 && sizeof(Level) == 16, "no padding: <HHIQQ, <HBBIIIqqqQQQQ, <qq");
_Static_assert(sizeof(size_t) == 8, "the bytes that a record claims are summed without overflow");

enum { FRAME_TYPE = 0x4D44, VERSION = 1, LEVELS_MAX = 65536 };
#define SEQUENCE_MAX (UINT64_C(1) << 62)
enum { DIFF = 2, TICKER = 4, TRADE = 5, BUYER_IS_MAKER = 1 };

#define UNIT INT64_C(100000000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_US INT64_C(1000)
#define MICROSECONDS_FROM INT64_C(100000000000000) /* a time from here on is in microseconds, below in milliseconds */
#define TIME_NS_MAX INT64_C(4102444800000000000)
#define SPAN_MAX (INT64_C(1) << 32)

/* --- the cursor: lines and frames are read in no other way -------------------------------------------------------------- */

typedef struct {
    const unsigned char *at, *end;
} Cursor;

typedef struct {
    const unsigned char *at;
    size_t length;
} Text;

static Cursor cursor_of(PyObject *bytes)
{
    const unsigned char *begin = (const unsigned char *)PyBytes_AS_STRING(bytes);
    return (Cursor){begin, begin + PyBytes_GET_SIZE(bytes)};
}

static inline bool take(Cursor *in, unsigned char wanted)
{
    if (in->at == in->end || *in->at != wanted)
        return false;
    in->at++;
    return true;
}

static bool take_all(Cursor *in, const char *wanted)
{
    size_t length = strlen(wanted);
    if ((size_t)(in->end - in->at) < length || memcmp(in->at, wanted, length) != 0)
        return false;
    in->at += length;
    return true;
}

static bool take_bytes(Cursor *in, void *into, size_t length)
{
    if ((size_t)(in->end - in->at) < length)
        return false;
    memcpy(into, in->at, length);
    in->at += length;
    return true;
}

/* At most `most` digits; how many there were. The value fits for any `most` up to 18. */
static inline unsigned take_digits(Cursor *in, unsigned most, int64_t *value)
{
    unsigned count = 0;
    int64_t sum = 0;
    for (; count < most && in->at < in->end && *in->at >= '0' && *in->at <= '9'; count++)
        sum = sum * 10 + (*in->at++ - '0');
    *value = sum;
    return count;
}

/* --- JSON values -------------------------------------------------------------------------------------------------------- */

static bool string(Cursor *in, Text *text)
{
    if (!take(in, '"'))
        return false;
    text->at = in->at;
    while (in->at < in->end && *in->at >= ' ' && *in->at < 0x7f && *in->at != '"' && *in->at != '\\')
        in->at++;
    text->length = (size_t)(in->at - text->at);
    return take(in, '"');
}

static bool integer(Cursor *in, int64_t *value)
{
    const unsigned char *from = in->at;
    unsigned digits = take_digits(in, 18, value);
    return digits == 1 || (digits > 1 && *from != '0'); /* what follows the digits is the caller's to judge: it wants a comma or a brace */
}

static bool boolean(Cursor *in, bool *value)
{
    *value = take_all(in, "true");
    return *value || take_all(in, "false");
}

/* A quoted decimal in units of 1e-8: the language of engine/fixed.py without the sign. */
static bool decimal(Cursor *in, int64_t *units)
{
    int64_t whole, places = 0;
    if (!take(in, '"') || !take_digits(in, 12, &whole) || whole > INT64_MAX / UNIT)
        return false;
    if (take(in, '.')) {
        unsigned count = take_digits(in, 8, &places), zeros = 0;
        if (count == 0)
            return false;
        for (; count < 8; count++)
            places *= 10;
        while (zeros < 10 && take(in, '0'))
            zeros++;
    }
    if (places > INT64_MAX - whole * UNIT)
        return false;
    *units = whole * UNIT + places;
    return take(in, '"');
}

static bool skip(Cursor *in)
{
    Text text;
    int64_t number;
    bool truth;
    return in->at < in->end && (*in->at == '"' ? string(in, &text) : *in->at <= '9' ? integer(in, &number) : boolean(in, &truth));
}

/* --- the members of each kind of line ----------------------------------------------------------------------------------- */

typedef struct {
    uint64_t seen; /* a bit for each key that has come */
    int64_t event, first, last, previous, trade;
    int64_t bid, bid_quantity, ask, ask_quantity; /* of a ticker; a trade's price and quantity are the first two */
    uint32_t bids, asks;
    bool buyer_is_maker;
    Text symbol;
    unsigned char *out, *out_end; /* where the next level goes; the end of the room */
} Line;

typedef bool (*Member)(Line *line, unsigned key, Cursor *in);

enum { KEY_PU = '@', KEY_OTHER = 0 };
#define SEEN(key) (UINT64_C(1) << ((key) & 63)) /* letters and KEY_PU have a bit of their own each */

/* A letter stands for itself. */
static unsigned key_of(Text text)
{
    if (text.length == 1 && ((*text.at >= 'a' && *text.at <= 'z') || (*text.at >= 'A' && *text.at <= 'Z')))
        return *text.at;
    return text.length == 2 && memcmp(text.at, "pu", 2) == 0 ? KEY_PU : KEY_OTHER;
}

static bool put_level(Line *line, int64_t price, int64_t quantity)
{
    Level level = {price, quantity};
    if ((size_t)(line->out_end - line->out) < sizeof level)
        return false;
    memcpy(line->out, &level, sizeof level);
    line->out += sizeof level;
    return true;
}

static bool levels(Cursor *in, Line *line, uint32_t *count)
{
    if (!take(in, '['))
        return false;
    if (take(in, ']'))
        return true;
    do {
        int64_t price, quantity;
        if (!take(in, '[') || !decimal(in, &price) || !take(in, ',') || !decimal(in, &quantity) || !take(in, ']'))
            return false;
        if (price == 0 || line->bids + line->asks == LEVELS_MAX || !put_level(line, price, quantity))
            return false;
        ++*count;
    } while (take(in, ','));
    return take(in, ']');
}

static bool diff_member(Line *line, unsigned key, Cursor *in)
{
    switch (key) {
    case 'e': return take_all(in, "\"depthUpdate\"");
    case 'E': return integer(in, &line->event);
    case 's': return string(in, &line->symbol);
    case 'U': return integer(in, &line->first);
    case 'u': return integer(in, &line->last);
    case KEY_PU: return integer(in, &line->previous);
    case 'b': return !(line->seen & SEEN('a')) && levels(in, line, &line->bids);
    case 'a': return levels(in, line, &line->asks);
    default: return skip(in);
    }
}

static bool ticker_member(Line *line, unsigned key, Cursor *in)
{
    switch (key) {
    case 'e': return take_all(in, "\"bookTicker\"");
    case 'E': return integer(in, &line->event);
    case 's': return string(in, &line->symbol);
    case 'u': return integer(in, &line->last);
    case 'b': return decimal(in, &line->bid);
    case 'B': return decimal(in, &line->bid_quantity);
    case 'a': return decimal(in, &line->ask);
    case 'A': return decimal(in, &line->ask_quantity);
    default: return skip(in);
    }
}

static bool trade_member(Line *line, unsigned key, Cursor *in)
{
    switch (key) {
    case 'e': return take_all(in, "\"trade\"");
    case 'X': return take_all(in, "\"MARKET\""); /* anything else is a booking, or unknown */
    case 'E': return integer(in, &line->event);
    case 's': return string(in, &line->symbol);
    case 't': return integer(in, &line->trade);
    case 'p': return decimal(in, &line->bid) && line->bid != 0; /* a booking at price 0 is no trade */
    case 'q': return decimal(in, &line->bid_quantity);
    case 'm': return boolean(in, &line->buyer_is_maker);
    default: return skip(in);
    }
}

#define SEEN_DIFF (SEEN('e') | SEEN('E') | SEEN('s') | SEEN('U') | SEEN('u') | SEEN('b') | SEEN('a'))
#define SEEN_TICKER (SEEN('s') | SEEN('u') | SEEN('b') | SEEN('B') | SEEN('a') | SEEN('A'))
#define SEEN_TRADE (SEEN('E') | SEEN('s') | SEEN('t') | SEEN('p') | SEEN('q') | SEEN('m'))

/* The rest of an object, behind its opening brace. */
static bool members(Cursor *in, Line *line, Member member, uint64_t wanted)
{
    do {
        Text text;
        if (!string(in, &text) || !take(in, ':'))
            return false;
        unsigned key = key_of(text);
        uint64_t bit = key == KEY_OTHER ? 0 : SEEN(key);
        if (line->seen & bit)
            return false;
        line->seen |= bit;
        if (!member(line, key, in))
            return false;
    } while (take(in, ','));
    return take(in, '}') && (line->seen & wanted) == wanted;
}

/* --- a line ------------------------------------------------------------------------------------------------------------- */

/* The rest of a depth stream's name: nothing, or how often it comes, as in @100ms. */
static bool is_pace(Text rest)
{
    Cursor in = {rest.at, rest.at + rest.length};
    int64_t ms;
    return rest.length == 0 || (take(&in, '@') && take_digits(&in, 5, &ms) && take_all(&in, "ms") && in.at == in.end);
}

/* DIFF, TICKER or TRADE by the stream's whole name behind its first @, as the twin tells them; else 0. */
static int kind_of(Cursor *in)
{
    enum { AT_MAX = 64 - 11 }; /* a symbol is not longer */
    Text stream;
    if (!take_all(in, "{\"stream\":") || !string(in, &stream) || !take_all(in, ",\"data\":{"))
        return 0;
    const unsigned char *at = memchr(stream.at, '@', stream.length < AT_MAX ? stream.length : AT_MAX);
    if (at == NULL || at == stream.at || *stream.at == '!')
        return 0;
    Text name = {at + 1, (size_t)(stream.at + stream.length - at - 1)};
    if (name.length == 10 && memcmp(name.at, "bookTicker", 10) == 0)
        return TICKER;
    if (name.length == 5 && memcmp(name.at, "trade", 5) == 0)
        return TRADE;
    return name.length >= 5 && memcmp(name.at, "depth", 5) == 0 && is_pace((Text){name.at + 5, name.length - 5}) ? DIFF : 0;
}

/* The venue's time in ns, by its size in milliseconds or microseconds; false when it is after TIME_NS_MAX. */
static bool event_ns_of(int64_t event, int64_t *ns)
{
    int64_t unit = event < MICROSECONDS_FROM ? NS_PER_MS : NS_PER_US;
    *ns = event <= TIME_NS_MAX / unit ? event * unit : 0;
    return event <= TIME_NS_MAX / unit;
}

/* Ids in their order and close together, as the twin wants them: one id from nowhere would make all later diffs stale. */
static bool chained(const Line *line)
{
    return line->first <= line->last && line->last - line->first <= SPAN_MAX && (line->previous == 0 || line->last - line->previous <= SPAN_MAX);
}

/* What a line says, behind its kind, into `record` and, as levels, into the room of `line`. */
static bool decode(Cursor *in, Text symbol, Line *line, Record *record)
{
    bool plain;
    switch (record->kind) {
    case DIFF: plain = members(in, line, diff_member, SEEN_DIFF) && chained(line); break;
    case TICKER: plain = members(in, line, ticker_member, SEEN_TICKER); break;
    default: plain = members(in, line, trade_member, SEEN_TRADE); break;
    }
    if (!plain || !take(in, '}') || in->at != in->end || !event_ns_of(line->event, &record->event_ns))
        return false;
    if (symbol.length && (symbol.length != line->symbol.length || memcmp(symbol.at, line->symbol.at, symbol.length) != 0))
        return false;
    if (record->kind != DIFF) {
        line->bids = 1;
        line->asks = record->kind == TICKER;
        if (!put_level(line, line->bid, line->bid_quantity) || (line->asks && !put_level(line, line->ask, line->ask_quantity)))
            return false;
    }
    record->flags = line->buyer_is_maker ? BUYER_IS_MAKER : 0;
    record->levels = line->bids + line->asks;
    record->bids = line->bids;
    record->first = (uint64_t)line->first;
    record->last = (uint64_t)line->last;
    record->previous = (uint64_t)line->previous;
    record->trade_or_bar = (uint64_t)line->trade;
    return true;
}

/* The packed message of a line. NULL without an exception: it is not plain. `record` has instrument, receive and origin. */
static PyObject *packed_line(Cursor *in, Text symbol, Record *record)
{
    enum { LEVEL_BYTES_MIN = 9 }; /* ["1","1"] */
    size_t length = (size_t)(in->end - in->at);
    record->kind = (uint8_t)kind_of(in);
    if (record->kind == 0)
        return NULL;
    size_t most = record->kind == DIFF ? length / LEVEL_BYTES_MIN : 2;
    PyObject *packed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(sizeof *record + most * sizeof(Level)));
    if (packed == NULL)
        return NULL;
    unsigned char *begin = (unsigned char *)PyBytes_AS_STRING(packed);
    Line line = {.out = begin + sizeof *record, .out_end = begin + sizeof *record + most * sizeof(Level)};
    if (!decode(in, symbol, &line, record)) {
        Py_DECREF(packed);
        return NULL;
    }
    memcpy(begin, record, sizeof *record);
    if (line.out != line.out_end)
        _PyBytes_Resize(&packed, line.out - begin); /* gives back what was too much; NULL and MemoryError when it cannot */
    return packed;
}

static bool int64_of(PyObject *number, int64_t *value)
{
    int overflow = 0;
    if (!PyLong_CheckExact(number))
        return false;
    *value = PyLong_AsLongLongAndOverflow(number, &overflow);
    return !overflow;
}

/* raw, symbol, instrument, receive_ns, origin_ns. The packed message, or NULL as packed_line. */
static PyObject *packed_of(PyObject *const *args, Record *record)
{
    int64_t instrument;
    Py_ssize_t length;
    if (!PyBytes_CheckExact(args[0]) || !PyUnicode_CheckExact(args[1]) || !PyUnicode_IS_COMPACT_ASCII(args[1]))
        return NULL;
    if (!int64_of(args[2], &instrument) || instrument < 0 || instrument > UINT16_MAX)
        return NULL;
    if (!int64_of(args[3], &record->receive_ns) || record->receive_ns < 0 || record->receive_ns > TIME_NS_MAX)
        return NULL;
    if (!int64_of(args[4], &record->origin_ns))
        return NULL;
    const unsigned char *symbol = (const unsigned char *)PyUnicode_AsUTF8AndSize(args[1], &length);
    if (symbol == NULL)
        return NULL;
    Cursor in = cursor_of(args[0]);
    record->instrument = (uint16_t)instrument;
    return packed_line(&in, (Text){symbol, (size_t)length}, record);
}

/* --- messages of a frame ------------------------------------------------------------------------------------------------ */

/* Put a new reference into a tuple or, when it could not be made, nothing. */
static bool put(PyObject *tuple, Py_ssize_t at, PyObject *value)
{
    PyTuple_SET_ITEM(tuple, at, value);
    return value != NULL;
}

static PyObject *list_of(const unsigned char *at, uint32_t count)
{
    PyObject *list = PyList_New(count);
    for (uint32_t i = 0; list != NULL && i < count; i++, at += sizeof(Level)) {
        Level level;
        memcpy(&level, at, sizeof level);
        PyObject *pair = PyTuple_New(2);
        if (pair != NULL)
            PyList_SET_ITEM(list, i, pair);
        if (pair == NULL || !put(pair, 0, PyLong_FromLongLong(level.price)) || !put(pair, 1, PyLong_FromLongLong(level.quantity)))
            Py_CLEAR(list);
    }
    return list;
}

/* A market.Message of a record whose levels and payload, known to be there, begin at `rest`. NULL: memory is out. */
static PyObject *message_of(PyTypeObject *type, const Record *record, const unsigned char *rest)
{
    enum { FIELDS = 13 };
    const unsigned char *asks = rest + record->bids * sizeof(Level), *payload = rest + record->levels * sizeof(Level);
    PyObject *new = type->tp_alloc(type, FIELDS);
    if (new == NULL)
        return NULL;
    if (put(new, 0, PyLong_FromLong(record->instrument)) && put(new, 1, PyLong_FromLong(record->kind)) &&
        put(new, 2, PyLong_FromLong(record->flags)) && put(new, 3, PyLong_FromLongLong(record->receive_ns)) &&
        put(new, 4, PyLong_FromLongLong(record->event_ns)) && put(new, 5, PyLong_FromLongLong(record->origin_ns)) &&
        put(new, 6, PyLong_FromUnsignedLongLong(record->first)) && put(new, 7, PyLong_FromUnsignedLongLong(record->last)) &&
        put(new, 8, PyLong_FromUnsignedLongLong(record->previous)) && put(new, 9, PyLong_FromUnsignedLongLong(record->trade_or_bar)) &&
        put(new, 10, list_of(rest, record->bids)) && put(new, 11, list_of(asks, record->levels - record->bids)) &&
        put(new, 12, PyBytes_FromStringAndSize((const char *)payload, record->payload)))
        return new;
    Py_DECREF(new);
    return NULL;
}

/* The next message of a frame. NULL without an exception: it does not fit. */
static PyObject *next_message(PyTypeObject *type, Cursor *in)
{
    Record record;
    if (!take_bytes(in, &record, sizeof record) || record.levels > LEVELS_MAX || record.bids > record.levels)
        return NULL;
    size_t rest = record.levels * sizeof(Level) + record.payload;
    if ((size_t)(in->end - in->at) < rest)
        return NULL;
    in->at += rest;
    return message_of(type, &record, in->at - rest);
}

/* Every message of a frame in a new list. NULL without an exception: something does not fit. */
static PyObject *messages_of(PyTypeObject *type, Cursor *in)
{
    Frame frame;
    if (!take_bytes(in, &frame, sizeof frame) || frame.type != FRAME_TYPE || frame.version != VERSION)
        return NULL;
    if (frame.sequence > SEQUENCE_MAX || frame.session > SEQUENCE_MAX)
        return NULL;
    if (frame.messages > (size_t)(in->end - in->at) / sizeof(Record)) /* it claims more than can be there: reserve nothing for it */
        return NULL;
    PyObject *list = PyList_New(frame.messages);
    for (uint32_t i = 0; list != NULL && i < frame.messages; i++) {
        PyObject *message = next_message(type, in);
        if (message != NULL)
            PyList_SET_ITEM(list, i, message);
        else
            Py_CLEAR(list);
    }
    return list;
}

/* --- the module --------------------------------------------------------------------------------------------------------- */

/* NULL without an exception becomes None. */
static PyObject *or_none(PyObject *found)
{
    return found != NULL || PyErr_Occurred() ? found : Py_NewRef(Py_None);
}

static bool given(Py_ssize_t count, Py_ssize_t wanted)
{
    if (count != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments, %zd wanted", count, wanted);
    return count == wanted;
}

/* A subclass of tuple that adds nothing to it, as NamedTuple makes them. */
static PyTypeObject *message_type(PyObject *type)
{
    if (PyType_Check(type) && PyType_IsSubtype((PyTypeObject *)type, &PyTuple_Type) &&
        ((PyTypeObject *)type)->tp_basicsize == PyTuple_Type.tp_basicsize)
        return (PyTypeObject *)type;
    PyErr_SetString(PyExc_TypeError, "the message type must be a NamedTuple");
    return NULL;
}

static PyObject *pack_line(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    Record record = {0};
    PyObject *packed = given(count, 5) ? packed_of(args, &record) : NULL;
    if (packed == NULL)
        return or_none(NULL);
    PyObject *found = PyTuple_New(3);
    if (found == NULL) {
        Py_DECREF(packed);
        return NULL;
    }
    PyTuple_SET_ITEM(found, 2, packed);
    if (put(found, 0, PyLong_FromLong(record.kind)) && put(found, 1, PyLong_FromLongLong(record.event_ns)))
        return found;
    Py_DECREF(found);
    return NULL;
}

static PyObject *normalise(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    Record record = {0};
    PyTypeObject *type = given(count, 6) ? message_type(args[5]) : NULL;
    PyObject *packed = type != NULL ? packed_of(args, &record) : NULL;
    if (packed == NULL)
        return or_none(NULL);
    PyObject *found = message_of(type, &record, (const unsigned char *)PyBytes_AS_STRING(packed) + sizeof record);
    Py_DECREF(packed);
    return found;
}

static PyObject *unpack(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    PyTypeObject *type = given(count, 2) ? message_type(args[1]) : NULL;
    if (type == NULL || !PyBytes_CheckExact(args[0]))
        return or_none(NULL);
    Cursor in = cursor_of(args[0]);
    return or_none(messages_of(type, &in));
}

#define FUNCTION(name, text) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, text}

static PyMethodDef functions[] = {
    FUNCTION(pack_line, "(raw, symbol, instrument, receive_ns, origin_ns): (kind, event ns, packed message) of a line, or None."),
    FUNCTION(normalise, "(raw, symbol, instrument, receive_ns, origin_ns, message_type): the message of a line, or None."),
    FUNCTION(unpack, "(data, message_type): the messages of a market frame, or None."),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "hftd.native._market", .m_doc = "Market data decoded in C; see market.c.", .m_size = 0, .m_methods = functions,
};

PyMODINIT_FUNC PyInit__market(void)
{
    return PyModuleDef_Init(&definition);
}
