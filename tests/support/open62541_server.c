/* An OPC-UA server on open62541, on loopback. It prints what its variables hold, one value a line, then serves:

       name type value

   Use: program make DIRECTORY                    a certificate and key, in certificate.der and key.der
        program serve PORT [OPTION...]
            -c DIRECTORY    offer signed and encrypted channels with the certificate made there, and no others
            -t FILE         trust only a client with this certificate
            -p PASSWORD     let in nobody but the user "agent" with this password
            -r COUNT        most nodes in one read
            -i COUNT        most monitored items in one call

   All variables are in namespace 2, by name. "ramp" grows by 1 every 20 ms. "level" is a double with the range
   0 to 200. "array" and "time" hold what no point can store. "n0" to "n299" hold their number.

   Standard input takes orders, one a line; each is answered by a line when it is done:
        write NAME VALUE MICROSECONDS    give a double variable a value and its time [us since 1970], 0 for now
        remove NAME                      take a variable away
        add NAME VALUE                   add a double variable
        bad NAME                         give a variable the status BadSensorFailure
        close                            close the session made last */

#include <open62541/plugin/accesscontrol_default.h>
#include <open62541/plugin/create_certificate.h>
#include <open62541/plugin/log_stdout.h>
#include <open62541/plugin/pki_default.h>
#include <open62541/server.h>
#include <open62541/server_config_default.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define URI "urn:metercarbon:test:open62541"
#define STANDARD(NAME) UA_NODEID_NUMERIC(0, UA_NS0ID_##NAME)
enum { NUMBERED = 300, RAMP_MS = 20, LINE = 200, STEP_MS = 5 };

static UA_UInt16 space;
static UA_NodeId last_session;
static volatile sig_atomic_t stopped;
static UA_StatusCode (*activate)(UA_Server *, UA_AccessControl *, const UA_EndpointDescription *,
                                 const UA_ByteString *, const UA_NodeId *, const UA_ExtensionObject *, void **);

static void stop(int number)
{
    stopped = number;
}

static void require(UA_StatusCode status, const char *what)
{
    if (status != UA_STATUSCODE_GOOD) {
        fprintf(stderr, "%s: %s\n", what, UA_StatusCode_name(status));
        exit(1);
    }
}

static UA_NodeId id(const char *name)
{
    return UA_NODEID_STRING(space, (char *) name);
}

/* Files */

static UA_ByteString content(const char *directory, const char *name)
{
    char path[4096];
    UA_ByteString found = UA_BYTESTRING_NULL;
    snprintf(path, sizeof path, "%s%s%s", directory, *name ? "/" : "", name);
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    require(UA_ByteString_allocBuffer(&found, 1 << 16), path);
    found.length = fread(found.data, 1, found.length, file);
    fclose(file);
    return found;
}

static void keep(const char *directory, const char *name, const UA_ByteString *bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(bytes->data, 1, bytes->length, file) != bytes->length || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

static int make(const char *directory)
{
    UA_String subject[] = {UA_STRING_STATIC("O=metercarbon tests"), UA_STRING_STATIC("CN=open62541")};
    UA_String names[] = {UA_STRING_STATIC("DNS:localhost"), UA_STRING_STATIC("URI:" URI)};
    UA_ByteString key = UA_BYTESTRING_NULL, certificate = UA_BYTESTRING_NULL;
    UA_UInt16 bits = 2048;
    UA_KeyValueMap *wanted = UA_KeyValueMap_new();
    UA_KeyValueMap_setScalar(wanted, UA_QUALIFIEDNAME(0, "key-size-bits"), &bits, &UA_TYPES[UA_TYPES_UINT16]);
    require(UA_CreateCertificate(UA_Log_Stdout, subject, 2, names, 2, UA_CERTIFICATEFORMAT_DER, wanted, &key,
                                 &certificate),
            "making a certificate");
    keep(directory, "certificate.der", &certificate);
    keep(directory, "key.der", &key);
    return 0;
}

/* Variables */

static void add(UA_Server *server, const char *name, UA_UInt32 of_type, const void *value, size_t length)
{
    UA_VariableAttributes attributes;
    const UA_DataType *type = &UA_TYPES[of_type];
    UA_VariableAttributes_init(&attributes);
    if (length > 0)
        UA_Variant_setArray(&attributes.value, (void *) value, length, type);
    else
        UA_Variant_setScalar(&attributes.value, (void *) value, type);
    attributes.accessLevel = UA_ACCESSLEVELMASK_READ;
    attributes.dataType = type->typeId;
    UA_UInt32 dimension = (UA_UInt32) length;
    attributes.valueRank = length > 0 ? UA_VALUERANK_ONE_DIMENSION : UA_VALUERANK_SCALAR;
    attributes.arrayDimensions = length > 0 ? &dimension : NULL;
    attributes.arrayDimensionsSize = length > 0 ? 1 : 0;
    attributes.displayName = UA_LOCALIZEDTEXT("", (char *) name);
    require(UA_Server_addVariableNode(server, id(name), STANDARD(OBJECTSFOLDER), STANDARD(ORGANIZES),
                                      UA_QUALIFIEDNAME(space, (char *) name), STANDARD(BASEDATAVARIABLETYPE),
                                      attributes, NULL, NULL),
            name);
}

static void add_range(UA_Server *server, const char *name, double low, double high)
{
    UA_VariableAttributes attributes;
    UA_Range range = {low, high};
    UA_VariableAttributes_init(&attributes);
    UA_Variant_setScalar(&attributes.value, &range, &UA_TYPES[UA_TYPES_RANGE]);
    attributes.accessLevel = UA_ACCESSLEVELMASK_READ;
    attributes.valueRank = UA_VALUERANK_SCALAR;
    attributes.dataType = UA_TYPES[UA_TYPES_RANGE].typeId;
    require(UA_Server_addVariableNode(server, UA_NODEID_NUMERIC(space, 0), id(name), STANDARD(HASPROPERTY),
                                      UA_QUALIFIEDNAME(0, "EURange"), STANDARD(PROPERTYTYPE), attributes, NULL,
                                      NULL),
            "EURange");
}

static UA_StatusCode set(UA_Server *server, const char *name, double value, UA_DateTime at, UA_StatusCode status)
{
    UA_DataValue data;
    UA_DataValue_init(&data);
    UA_Variant_setScalar(&data.value, &value, &UA_TYPES[UA_TYPES_DOUBLE]);
    data.hasValue = true;
    data.sourceTimestamp = at;
    data.hasSourceTimestamp = true;
    data.status = status;
    data.hasStatus = status != UA_STATUSCODE_GOOD;
    return UA_Server_writeDataValue(server, id(name), data);
}

static void grow(UA_Server *server, void *data)
{
    double *value = data;
    *value += 1;
    require(set(server, "ramp", *value, UA_DateTime_now(), UA_STATUSCODE_GOOD), "ramp");
}

#define HOLD(NAME, C_TYPE, UA_TYPE, VALUE, FORMAT, CAST)      \
    do {                                                      \
        C_TYPE made = VALUE;                                  \
        add(server, NAME, UA_TYPE, &made, 0);                 \
        printf("holds " NAME " " FORMAT "\n", (CAST) made);   \
    } while (0)

static void make_variables(UA_Server *server)
{
    static double ramp;
    double three[] = {1, 2, 3}, level = 100;
    UA_DateTime now = UA_DateTime_now();
    UA_String text = UA_STRING("Ofen 3 \xc3\xbc");

    HOLD("sbyte", UA_SByte, UA_TYPES_SBYTE, -128, "int %d", int);
    HOLD("byte", UA_Byte, UA_TYPES_BYTE, 255, "int %d", int);
    HOLD("int16", UA_Int16, UA_TYPES_INT16, -32768, "int %d", int);
    HOLD("uint16", UA_UInt16, UA_TYPES_UINT16, 65535, "int %d", int);
    HOLD("int32", UA_Int32, UA_TYPES_INT32, -2147483647, "int %ld", long);
    HOLD("uint32", UA_UInt32, UA_TYPES_UINT32, 4294967295u, "int %lu", unsigned long);
    HOLD("int64", UA_Int64, UA_TYPES_INT64, -INT64_C(9007199254740993), "int %lld", long long);
    HOLD("uint64", UA_UInt64, UA_TYPES_UINT64, UINT64_C(9007199254740993), "int %llu", unsigned long long);
    HOLD("float", UA_Float, UA_TYPES_FLOAT, 0.1f, "float %.17g", double);
    HOLD("double", UA_Double, UA_TYPES_DOUBLE, -1.0 / 3, "float %.17g", double);
    HOLD("bool", UA_Boolean, UA_TYPES_BOOLEAN, true, "bool %d", int);
    add(server, "text", UA_TYPES_STRING, &text, 0);
    printf("holds text text %.*s\n", (int) text.length, (char *) text.data);

    add(server, "array", UA_TYPES_DOUBLE, three, 3);
    add(server, "time", UA_TYPES_DATETIME, &now, 0);
    add(server, "level", UA_TYPES_DOUBLE, &level, 0);
    add_range(server, "level", 0, 200);
    add(server, "ramp", UA_TYPES_DOUBLE, &ramp, 0);
    require(UA_Server_addRepeatedCallback(server, grow, &ramp, RAMP_MS, NULL), "ramp");
    for (int n = 0; n < NUMBERED; n++) {
        char name[16];
        double value = n;
        snprintf(name, sizeof name, "n%d", n);
        add(server, name, UA_TYPES_DOUBLE, &value, 0);
    }
}

/* Orders */

static void obey(UA_Server *server, char *line)
{
    char order[16] = "", name[64] = "";
    double value = 0;
    long long at_us = 0;
    UA_StatusCode done = UA_STATUSCODE_BADNOTSUPPORTED;

    /* What is due is sampled before it changes. */
    UA_Server_run_iterate(server, false);
    sscanf(line, "%15s %63s %lf %lld", order, name, &value, &at_us);
    UA_DateTime at = at_us ? UA_DATETIME_UNIX_EPOCH + at_us * UA_DATETIME_USEC : UA_DateTime_now();
    if (strcmp(order, "write") == 0)
        done = set(server, name, value, at, UA_STATUSCODE_GOOD);
    else if (strcmp(order, "bad") == 0)
        done = set(server, name, 0, at, UA_STATUSCODE_BADSENSORFAILURE);
    else if (strcmp(order, "remove") == 0)
        done = UA_Server_deleteNode(server, id(name), true);
    else if (strcmp(order, "add") == 0) {
        add(server, name, UA_TYPES_DOUBLE, &value, 0);
        done = UA_STATUSCODE_GOOD;
    } else if (strcmp(order, "close") == 0)
        done = UA_Server_closeSession(server, &last_session);
    printf("done %s %s\n", order, UA_StatusCode_name(done));
}

static void take_orders(UA_Server *server)
{
    static char line[LINE];
    static size_t length;
    struct pollfd input = {0, POLLIN, 0};
    if (poll(&input, 1, STEP_MS) <= 0)
        return;
    ssize_t size = read(0, line + length, sizeof line - 1 - length);
    if (size <= 0) {
        /* Whoever gave orders is gone. */
        stopped = 1;
        return;
    }
    length += (size_t) size;
    line[length] = 0;
    for (char *end; (end = strchr(line, '\n')) != NULL;) {
        *end = 0;
        obey(server, line);
        length -= (size_t) (end + 1 - line);
        memmove(line, end + 1, length + 1);
    }
}

/* Serving */

static UA_StatusCode remember(UA_Server *server, UA_AccessControl *control, const UA_EndpointDescription *endpoint,
                              const UA_ByteString *certificate, const UA_NodeId *session,
                              const UA_ExtensionObject *token, void **context)
{
    UA_StatusCode status = activate(server, control, endpoint, certificate, session, token, context);
    printf("session %s\n", UA_StatusCode_name(status));
    UA_NodeId_clear(&last_session);
    require(UA_NodeId_copy(session, &last_session), "session");
    return status;
}

static int serve(int port, int count, char **options)
{
    UA_ServerConfig config;
    const char *directory = NULL, *trusted = NULL;
    char *password = NULL;
    int reads = 0, items = 0, option;
    char url[64];

    while ((option = getopt(count, options, "c:t:p:r:i:")) != -1)
        switch (option) {
        case 'c': directory = optarg; break;
        case 't': trusted = optarg; break;
        case 'p': password = optarg; break;
        case 'r': reads = atoi(optarg); break;
        case 'i': items = atoi(optarg); break;
        default: return 2;
        }
    memset(&config, 0, sizeof config);
    config.logging = UA_Log_Stdout_new(UA_LOGLEVEL_WARNING);
    if (directory != NULL) {
        UA_ByteString certificate = content(directory, "certificate.der"), key = content(directory, "key.der");
        UA_ByteString trust = trusted ? content(trusted, "") : UA_BYTESTRING_NULL;
        require(UA_ServerConfig_setDefaultWithSecureSecurityPolicies(&config, (UA_UInt16) port, &certificate, &key,
                                                                     trusted ? &trust : NULL, trusted ? 1 : 0, NULL, 0,
                                                                     NULL, 0),
                "security");
        require(UA_ServerConfig_addSecurityPolicyNone(&config, &certificate), "discovery");
        config.securityPolicyNoneDiscoveryOnly = true;
        if (trusted == NULL) {
            UA_CertificateVerification_AcceptAll(&config.secureChannelPKI);
            UA_CertificateVerification_AcceptAll(&config.sessionPKI);
        }
    } else {
        require(UA_ServerConfig_setMinimal(&config, (UA_UInt16) port, NULL), "configuration");
        config.allowNonePolicyPassword = password != NULL;
    }
    UA_String_clear(&config.applicationDescription.applicationUri);
    config.applicationDescription.applicationUri = UA_STRING_ALLOC(URI);
    for (size_t n = 0; n < config.endpointsSize; n++) {
        UA_String_clear(&config.endpoints[n].server.applicationUri);
        config.endpoints[n].server.applicationUri = UA_STRING_ALLOC(URI);
    }
    snprintf(url, sizeof url, "opc.tcp://127.0.0.1:%d", port);
    UA_Array_delete(config.serverUrls, config.serverUrlsSize, &UA_TYPES[UA_TYPES_STRING]);
    config.serverUrls = UA_String_new();
    *config.serverUrls = UA_STRING_ALLOC(url);
    config.serverUrlsSize = 1;
    config.tcpReuseAddr = true;
    config.maxNodesPerRead = (UA_UInt32) reads;
    config.maxMonitoredItemsPerCall = (UA_UInt32) items;
    config.samplingIntervalLimits.min = 10;
    config.publishingIntervalLimits.min = 10;
    UA_UsernamePasswordLogin login = {UA_STRING_STATIC("agent"), UA_STRING(password ? password : "")};
    require(UA_AccessControl_default(&config, password == NULL, NULL, password ? 1 : 0, &login), "users");
    activate = config.accessControl.activateSession;
    config.accessControl.activateSession = remember;

    UA_Server *server = UA_Server_newWithConfig(&config);
    if (server == NULL) {
        fprintf(stderr, "no server\n");
        return 1;
    }
    space = UA_Server_addNamespace(server, "urn:test");
    make_variables(server);
    require(UA_Server_run_startup(server), url);
    puts("ready");
    while (!stopped) {
        UA_Server_run_iterate(server, false);
        take_orders(server);
    }
    UA_Server_run_shutdown(server);
    UA_Server_delete(server);
    return 0;
}

int main(int count, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    if (count == 3 && strcmp(words[1], "make") == 0)
        return make(words[2]);
    if (count >= 3 && strcmp(words[1], "serve") == 0)
        return serve(atoi(words[2]), count - 2, words + 2);
    fprintf(stderr, "use: %s make DIRECTORY | serve PORT [OPTION...]\n", words[0]);
    return 2;
}
