/* The extension module arawn_cli.fs._measure: measure trees, and unlink the files of a directory.

   Both release the GIL. measure.py and delete.py describe the functions and have the same in
   Python. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Append to a list and give up the reference to the item, which may be NULL. */
static bool append(PyObject *list, PyObject *item)
{
    bool done = item && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return done;
}

/* ---- measure: arguments ---- */

/* Set the subtrees, which borrow the names of the tuples (names, shallow); false with an exception. */
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
        Py_ssize_t length;
        int shallow;
        if (!PyArg_ParseTuple(PyTuple_GetItem(given, (Py_ssize_t)i), "y#p", &subtree->names, &length, &shallow))
            return false;
        subtree->shallow = shallow;
        for (const char *name = subtree->names; name < subtree->names + length; name += strlen(name) + 1) {
            if (!*name || strchr(name, '/')) {
                PyErr_SetString(PyExc_ValueError, "a name is empty or contains a slash");
                return false;
            }
            subtree->count++;
        }
        if (!subtree->count) {
            PyErr_SetString(PyExc_ValueError, "a subtree has no name");
            return false;
        }
    }
    return true;
}

/* ---- measure: results ---- */

static PyObject *result_of(const struct usage *usage)
{
    PyObject *newest = usage->any ? Py_BuildValue("(LL)", (long long)usage->newest.tv_sec, (long long)usage->newest.tv_nsec)
                                  : Py_NewRef(Py_None);
    return Py_BuildValue("((KKKKKN)[][][])", (unsigned long long)usage->apparent, (unsigned long long)usage->allocated,
                         (unsigned long long)usage->files, (unsigned long long)usage->directories,
                         (unsigned long long)usage->largest, newest);
}

static PyObject *results_of(const struct walk *walk)
{
    PyObject *results = PyList_New(0);
    bool done = results != NULL;
    for (size_t i = 0; done && i < walk->count; i++)
        done = append(results, result_of(&walk->subtrees[i].usage));
    const struct hard_link *link = walk->links.items;
    for (size_t i = 0; done && i < walk->links.count; i++, link++) {
        PyObject *links = PyTuple_GetItem(PyList_GetItem(results, (Py_ssize_t)link->subtree), 1);
        done = append(links, Py_BuildValue("(KKKKKK)", (unsigned long long)link->device, (unsigned long long)link->inode,
                                           (unsigned long long)link->apparent, (unsigned long long)link->allocated,
                                           (unsigned long long)link->found, (unsigned long long)link->names));
    }
    const struct finding *finding = walk->findings.items;
    for (size_t i = 0; done && i < walk->findings.count; i++, finding++) {
        PyObject *result = PyList_GetItem(results, (Py_ssize_t)finding->subtree);
        if (finding->operation)
            done = append(PyTuple_GetItem(result, 2), Py_BuildValue("(syi)", finding->operation, finding->path, finding->error));
        else
            done = append(PyTuple_GetItem(result, 3), Py_BuildValue("y", finding->path));
    }
    if (!done)
        Py_CLEAR(results);
    return results;
}

/* ---- measure ---- */

/* Wait for the walk and report its progress; false with an exception, from a signal handler or `advance`. */
static bool wait_for_walk(struct walk *walk, PyObject *advance)
{
    size_t reported = 0;
    for (bool over = false; !over;) {
        size_t finished;
        Py_BEGIN_ALLOW_THREADS;
        finished = wait_for_progress(walk, &over);
        Py_END_ALLOW_THREADS;
        if (PyErr_CheckSignals() < 0)
            return false;
        PyObject *answer = PyObject_CallFunction(advance, "n", (Py_ssize_t)(finished - reported));
        if (!answer)
            return false;
        Py_DECREF(answer);
        reported = finished;
    }
    return true;
}

static PyObject *run(struct walk *walk, unsigned threads, PyObject *advance)
{
    if (!start_walk(walk, threads))
        return PyErr_NoMemory();
    bool done = !walk->threads || wait_for_walk(walk, advance);
    Py_BEGIN_ALLOW_THREADS;
    finish_walk(walk);
    Py_END_ALLOW_THREADS;
    if (!done)
        return NULL;
    if (!walk->threads)
        return Py_NewRef(Py_None);
    return walk->no_memory ? PyErr_NoMemory() : results_of(walk);
}

PyDoc_STRVAR(measure_doc, "measure(start, subtrees, threads, advance, /)\n--\n\n"
                          "Measure subtrees of an open directory; return None if no thread can be started.");

static PyObject *measure(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    struct walk walk = {0};
    PyObject *subtrees, *advance, *results = NULL;
    int threads;
    if (!PyArg_ParseTuple(arguments, "iO!iO:measure", &walk.start, &PyTuple_Type, &subtrees, &threads, &advance))
        return NULL;
    if (threads < 1)
        return PyErr_Format(PyExc_ValueError, "%d threads: at least one is needed", threads);
    if (read_subtrees(subtrees, &walk)) {
        results = run(&walk, (unsigned)threads, advance);
        free_results(&walk);
    }
    free(walk.subtrees);
    return results;
}

/* ---- unlink ---- */

enum { UNLINK_NSECS = 50000000 }; /* how long one call lasts, for signals */

/* A name that could not be unlinked. */
struct remaining {
    size_t index;
    int error;
};

static int64_t nanoseconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Unlink one or more names; missing files are no failures. Return the count of names tried. */
static size_t unlink_names(int directory, const char *names, const char *end, struct remaining *remaining, size_t *count)
{
    int64_t until = nanoseconds() + UNLINK_NSECS;
    size_t tried = 0;
    *count = 0;
    do {
        if (unlinkat(directory, names, 0) && errno != ENOENT)
            remaining[(*count)++] = (struct remaining){tried, errno};
        tried++;
        names += strlen(names) + 1;
    } while (names < end && nanoseconds() < until);
    return tried;
}

PyDoc_STRVAR(unlink_doc, "unlink(directory, names, /)\n--\n\n"
                         "Unlink names, each with its NUL, of an open directory, for a twentieth of a second.");

static PyObject *unlink_(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    const char *names;
    Py_ssize_t length;
    int directory;
    if (!PyArg_ParseTuple(arguments, "iy#:unlink", &directory, &names, &length))
        return NULL;
    size_t count = 0, tried, failed;
    for (Py_ssize_t at = 0; at < length; at++)
        count += !names[at];
    if (!length || names[length - 1] || memchr(names, '/', (size_t)length)) {
        PyErr_SetString(PyExc_ValueError, "each name needs a NUL at its end and must not contain a slash");
        return NULL;
    }
    struct remaining *remaining = calloc(count, sizeof *remaining);
    if (!remaining)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS;
    tried = unlink_names(directory, names, names + length, remaining, &failed);
    Py_END_ALLOW_THREADS;
    PyObject *failures = PyList_New(0);
    for (size_t i = 0; failures && i < failed; i++)
        if (!append(failures, Py_BuildValue("(ni)", (Py_ssize_t)remaining[i].index, remaining[i].error)))
            Py_CLEAR(failures);
    free(remaining);
    return failures ? Py_BuildValue("(nN)", (Py_ssize_t)tried, failures) : NULL;
}

/* ---- the module ---- */

static PyMethodDef methods[] = {
    {"measure", measure, METH_VARARGS, measure_doc},
    {"unlink", unlink_, METH_VARARGS, unlink_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "arawn_cli.fs._measure", .m_methods = methods};

PyMODINIT_FUNC PyInit__measure(void)
{
    return PyModuleDef_Init(&definition);
}
