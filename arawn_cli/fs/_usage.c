/* Measures subtrees through directory descriptors, and unlinks files of one, with the GIL released and on every core: what Python
   calls. The walk itself, which knows nothing of Python, is in the parts that _walk.h lists.

   It is the same walk as that of its twin in walk.py, with the same answers: failures are values. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- while it is walked ---- */

/* Tells the caller how far the walk is until it is over; false with an exception set when the caller ends it. */
static bool attend(struct walk *walk, PyObject *tick)
{
    size_t told = 0;
    for (bool over = false; !over;) {
        size_t finished;
        Py_BEGIN_ALLOW_THREADS;
        finished = wait_a_tick(walk, &over);
        Py_END_ALLOW_THREADS;
        if (PyErr_CheckSignals() < 0)
            return false;
        PyObject *answer = PyObject_CallFunction(tick, "n", (Py_ssize_t)(finished - told));
        if (!answer)
            return false;
        Py_DECREF(answer);
        told = finished;
    }
    return true;
}

/* Walks with the GIL released where nothing of Python is touched; false with an exception set. */
static bool run(struct walk *walk, struct worker *workers, unsigned threads, PyObject *tick)
{
    unsigned begun = begin_threads(workers, threads);
    bool fine = true;
    if (begun) {
        fine = attend(walk, tick);
        Py_BEGIN_ALLOW_THREADS;
        if (!fine)
            halt(walk);
        for (unsigned i = 0; i < begun; i++)
            pthread_join(workers[i].thread, NULL);
        Py_END_ALLOW_THREADS;
    } else { /* no thread is to be had, under a limit on tasks */
        Py_BEGIN_ALLOW_THREADS;
        work(&workers[0]);
        Py_END_ALLOW_THREADS;
        fine = attend(walk, tick);
    }
    if (fine && atomic_load(&walk->error)) {
        PyErr_NoMemory();
        return false;
    }
    return fine;
}

/* ---- values for Python ---- */

static bool append(PyObject *list, PyObject *item)
{
    bool fine = item && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return fine;
}

static PyObject *tuple_of(const struct tally *tally)
{
    PyObject *newest = Py_NewRef(Py_None);
    if (tally->any) {
        Py_DECREF(newest);
        newest = Py_BuildValue("(LL)", (long long)tally->newest.tv_sec, (long long)tally->newest.tv_nsec);
        if (!newest)
            return NULL;
    }
    return Py_BuildValue("((KKKKKN)[][][])", (unsigned long long)tally->apparent, (unsigned long long)tally->allocated,
                         (unsigned long long)tally->files, (unsigned long long)tally->directories,
                         (unsigned long long)tally->largest, newest);
}

static bool add_findings(PyObject *answers, const struct list *findings)
{
    const struct finding *items = findings->items;
    for (size_t i = 0; i < findings->count; i++) {
        PyObject *answer = PyList_GetItem(answers, (Py_ssize_t)items[i].subtree);
        const char *operation = items[i].operation;
        PyObject *item =
            operation ? Py_BuildValue("(syi)", operation, items[i].path, items[i].number) : Py_BuildValue("y", items[i].path);
        if (!append(PyTuple_GetItem(answer, operation ? 2 : 3), item))
            return false;
    }
    return true;
}

static bool add_links(PyObject *answers, const struct list *links)
{
    const struct link *items = links->items;
    for (size_t i = 0; i < links->count; i++) {
        PyObject *answer = PyList_GetItem(answers, (Py_ssize_t)items[i].subtree);
        PyObject *item = Py_BuildValue("(KKKKKK)", (unsigned long long)items[i].device, (unsigned long long)items[i].inode,
                                       (unsigned long long)items[i].apparent, (unsigned long long)items[i].allocated,
                                       (unsigned long long)items[i].met, (unsigned long long)items[i].links);
        if (!append(PyTuple_GetItem(answer, 1), item))
            return false;
    }
    return true;
}

static PyObject *answers_of(const struct walk *walk, struct worker *workers, unsigned threads)
{
    PyObject *answers = PyList_New(0);
    bool fine = answers != NULL;
    for (size_t i = 0; fine && i < walk->count; i++)
        fine = append(answers, tuple_of(&walk->subtrees[i].tally));
    for (unsigned i = 0; fine && i < threads; i++) {
        merge(&workers[i].links);
        fine = add_links(answers, &workers[i].links) && add_findings(answers, &workers[i].findings);
    }
    if (!fine)
        Py_CLEAR(answers);
    return answers;
}

/* ---- measuring ---- */

/* Reads the tuple of (names, shallow) into subtrees, which borrow the names; false with an exception set. */
static bool read_subtrees(PyObject *given, struct walk *walk)
{
    walk->count = (size_t)PyTuple_Size(given);
    walk->subtrees = calloc(walk->count ? walk->count : 1, sizeof *walk->subtrees);
    if (!walk->subtrees) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < walk->count; i++) {
        struct subtree *subtree = &walk->subtrees[i];
        const char *names;
        Py_ssize_t length;
        int shallow;
        if (!PyArg_ParseTuple(PyTuple_GetItem(given, (Py_ssize_t)i), "y#p", &names, &length, &shallow))
            return false;
        for (Py_ssize_t at = 0; at < length; at += (Py_ssize_t)strlen(names + at) + 1) {
            if (!names[at] || strchr(names + at, '/')) {
                PyErr_SetString(PyExc_ValueError, "a name is empty or has a slash");
                return false;
            }
            subtree->count++;
        }
        if (!subtree->count) {
            PyErr_SetString(PyExc_ValueError, "a subtree without a name");
            return false;
        }
        subtree->names = names;
        subtree->shallow = shallow;
        subtree->tally = NOTHING;
    }
    return true;
}

static PyObject *measure_with(struct walk *walk, unsigned threads, PyObject *tick)
{
    PyObject *answers = NULL;
    threads = affordable(walk, threads);
    struct worker *workers = calloc(threads, sizeof *workers);
    if (!workers)
        return PyErr_NoMemory();
    if (!prepare(workers, threads, walk))
        PyErr_NoMemory();
    else if (run(walk, workers, threads, tick))
        answers = answers_of(walk, workers, threads);
    clear(workers, threads, walk);
    free(workers);
    return answers;
}

static PyObject *measure(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    struct walk walk = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER};
    PyObject *given, *tick, *answers = NULL;
    int threads;
    if (!PyArg_ParseTuple(arguments, "iOiO:measure", &walk.start, &given, &threads, &tick))
        return NULL;
    if (!PyTuple_Check(given) || threads < 1) {
        PyErr_SetString(PyExc_ValueError, "a tuple of subtrees and one thread or more are needed");
        return NULL;
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&walk.end, &attributes);
    pthread_condattr_destroy(&attributes);
    if (read_subtrees(given, &walk))
        answers = measure_with(&walk, (unsigned)threads, tick);
    pthread_cond_destroy(&walk.end);
    free(walk.subtrees);
    return answers;
}

PyDoc_STRVAR(measure_doc, "measure(start, subtrees, threads, tick, /)\n--\n\n"
                          "Measures subtrees below the open directory start; as measure_all in usage.py.");

/* ---- unlinking ---- */

/* What could not be unlinked: which of the names, and why. */
struct stuck {
    size_t number;
    int error;
};

/* Unlinks names, each with its NUL, one or more until a tick is over; what is gone already is no failure. Answers with how many
   were tried, and tells of those that stay. */
static size_t unlink_names(int directory, const char *names, const char *end, struct stuck *stuck, size_t *stay)
{
    struct timespec until = after_a_tick();
    size_t number = 0;
    *stay = 0;
    do {
        if (unlinkat(directory, names, 0) && errno != ENOENT)
            stuck[(*stay)++] = (struct stuck){number, errno};
        number++;
        names += strlen(names) + 1;
    } while (names < end && !is_later(now(), until));
    return number;
}

static PyObject *unlinked(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    const char *names;
    Py_ssize_t length;
    int directory;
    if (!PyArg_ParseTuple(arguments, "iy#:unlink", &directory, &names, &length))
        return NULL;
    size_t count = 0;
    for (Py_ssize_t at = 0; at < length; at++)
        count += !names[at];
    if (!length || names[length - 1] || memchr(names, '/', (size_t)length)) {
        PyErr_SetString(PyExc_ValueError, "names are needed, each with a NUL behind it and no slash in it");
        return NULL;
    }
    struct stuck *stuck = calloc(count, sizeof *stuck);
    if (!stuck)
        return PyErr_NoMemory();
    size_t tried, stay;
    Py_BEGIN_ALLOW_THREADS
    tried = unlink_names(directory, names, names + length, stuck, &stay);
    Py_END_ALLOW_THREADS
    PyObject *answer = PyList_New(0);
    for (size_t number = 0; answer && number < stay; number++)
        if (!append(answer, Py_BuildValue("(ni)", (Py_ssize_t)stuck[number].number, stuck[number].error)))
            Py_CLEAR(answer);
    free(stuck);
    return answer ? Py_BuildValue("(nN)", (Py_ssize_t)tried, answer) : NULL;
}

PyDoc_STRVAR(unlink_doc, "unlink(directory, names, /)\n--\n\n"
                         "Unlinks names of the open directory, each with its NUL; as unlink in unlinking.py.");

/* ---- the module ---- */

static PyMethodDef methods[] = {
    {"measure", measure, METH_VARARGS, measure_doc}, {"unlink", unlinked, METH_VARARGS, unlink_doc}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "arawn_cli.fs._usage", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__usage(void)
{
    return PyModuleDef_Init(&definition);
}
